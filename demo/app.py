"""The demo as a Gradio app. It connects the parts; ``refiner.demo.views`` makes what is shown."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import gradio as gr
from starlette.middleware import Middleware

from refiner.demo.examples import write_pictures
from refiner.demo.gate import Gate
from refiner.demo.settings import DemoSettings
from refiner.demo.studio import Studio
from refiner.demo.tabs.detect import detect_tab
from refiner.demo.tabs.evaluate import evaluate_tab
from refiner.demo.tabs.refine import refine_tab
from refiner.errors import ConfigError

HERE: Final = Path(__file__).parent
_THREADS: Final = 24
"""Threads for uploads, files and short handlers, in addition to those of running and waiting jobs."""
_FONTS: Final = ["system-ui", "-apple-system", "Segoe UI", "Liberation Sans", "Arial", "sans-serif"]
_COLOURS: Final = {
    ("#f6f5f1", "#161615"): (
        "body_background_fill", "background_fill_secondary", "checkbox_label_background_fill_hover",
    ),
    ("#ffffff", "#1f1f1d"): ("block_background_fill", "button_secondary_background_fill"),
    ("#ffffff", "#161615"): ("input_background_fill",),
    ("#dedbd3", "#35342f"): (
        "block_border_color", "border_color_primary", "input_border_color", "checkbox_label_border_color",
        "button_secondary_border_color",
    ),
    ("#1f7a4d", "#1f7a4d"): ("button_primary_background_fill",),
    ("#17613c", "#2a9460"): ("button_primary_background_fill_hover",),
    ("#ffffff", "#ffffff"): ("button_primary_text_color",),
    ("#e3efe8", "#20342a"): ("color_accent_soft",),
    ("#1f7a4d", "#5fc894"): ("slider_color",),
    ("#1f7a4d", "#2a9460"): ("checkbox_background_color_selected", "checkbox_border_color_selected"),
    ("#f6f5f1", "#2a2a27"): ("button_secondary_background_fill_hover",),
    ("transparent", "transparent"): ("checkbox_label_background_fill", "block_label_background_fill"),
}  # fmt: skip
"""Colour in light mode, colour in dark mode -> variables of Gradio's theme."""
_HEADER: Final = """<header class="rf-header"><h1>refiner</h1>
<p>Finds the flaws of a generated image, explains them, fixes them, and keeps only what is better.</p></header>"""


def build(studio: Studio, examples: Sequence[str] = ()) -> gr.Blocks:
    """Build the app without launching it.

    Args:
        studio: models and jobs of the demo.
        examples: paths of example images, in a folder that the app may serve.
    """
    age = studio.settings.keep_seconds
    with gr.Blocks(title="refiner", analytics_enabled=False, delete_cache=(min(600, age), age)) as demo:
        gr.HTML(_HEADER, padding=False, js_on_load=None)
        with gr.Tab("Refine"):
            refine_tab(studio)
        with gr.Tab("Detect"):
            detect_tab(studio, examples)
        with gr.Tab("Evaluate"):
            evaluate_tab(studio)

        def leave(request: gr.Request) -> None:
            studio.desk.stop(str(request.session_hash))

        demo.unload(leave)
    return demo


def serve(studio: Studio, *, port: int | None, share: bool, ready: Callable[[str], None]) -> None:
    """Serve the app until the process is interrupted.

    Args:
        studio: models and jobs of the demo.
        port: port to listen on; None: the first free one from 7860.
        share: whether Gradio's tunnel makes the demo public.
        ready: called with the text of ``told_address`` when the app can be reached.

    Raises:
        ConfigError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="refiner-demo-") as folder:
        bundled = any(id_.startswith("micro") for id_ in studio.settings.detectors.values())
        demo = build(studio, write_pictures(Path(folder)) if bundled else ())
        _launch(demo, studio.settings, port, share, folder, ready)


def told_address(local: str, public: str | None, *, share: bool) -> str:
    """The address of the demo; if ``share`` is set and there is no public address, with a note about that."""
    if share and not public:
        return f"{local} (only on this machine, because Gradio's tunnel cannot be reached)"
    return public or local


def _launch(
    demo: gr.Blocks, settings: DemoSettings, port: int | None, share: bool, folder: str, ready: Callable[[str], None]
) -> None:
    demo.queue(max_size=4 * (settings.running + settings.waiting), default_concurrency_limit=None)
    try:
        _, local, public = demo.launch(
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            inbrowser=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api", "settings"],
            max_threads=settings.running + settings.waiting + _THREADS,
            allowed_paths=[folder],
            max_file_size=settings.max_file_bytes,
            app_kwargs={"middleware": [Middleware(Gate, max_upload=settings.max_request_bytes)]},
            theme=_theme(),
            css_paths=HERE / "style.css",
            head_paths=HERE / "head.html",
        )
    except OSError as error:
        taken = port or "7860 or any later one"
        raise ConfigError(f"Cannot listen on port {taken}: name a free port with --port.") from error
    try:
        ready(told_address(local, public, share=share))
        demo.block_thread()
    finally:
        demo.close(verbose=False)


def _theme() -> gr.themes.Base:
    """The colours of the reports, and fonts of the system."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.emerald,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_sm,
        font=_FONTS,
        font_mono=["ui-monospace", "Liberation Mono", "monospace"],
    ).set(
        **{name: light for (light, _), names in _COLOURS.items() for name in names},
        **{f"{name}_dark": dark for (_, dark), names in _COLOURS.items() for name in names},
        background_fill_primary_dark="#1f1f1d",
        color_accent="#1f7a4d",
        input_border_width="1px",
        checkbox_label_border_width="1px",
        button_border_width="1px",
    )
