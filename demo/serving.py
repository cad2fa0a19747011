"""Serve a Gradio app with the demo's style, behind the demo's filter of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import gradio as gr
from starlette.middleware import Middleware

from refiner.demo.gate import MAX_JSON, Gate
from refiner.demo.settings import Access
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


def told_address(local: str, public: str | None, *, share: bool) -> str:
    """The address of the demo; if ``share`` is set and there is no public address, with a note about that."""
    if share and not public:
        return f"{local} (only on this machine, because Gradio's tunnel cannot be reached)"
    return public or local


def launch(
    app: gr.Blocks,
    *,
    jobs: int,
    port: int | None,
    ready: Callable[[str], None],
    share: bool = False,
    access: Access | None = None,
    served: Sequence[str] = (),
    max_file_bytes: int = MAX_JSON,
    max_upload_bytes: int = MAX_JSON,
) -> None:
    """Serve an app until the process is interrupted.

    Args:
        app: what is served.
        jobs: that may run or wait at a time.
        port: port to listen on; None: the first free one from 7860.
        ready: called with the text of ``told_address`` when the app can be reached.
        share: whether Gradio's tunnel makes the app public.
        access: who may visit the app, and where a reverse proxy serves it; None: everybody, without a proxy.
        served: folders whose files visitors may read.
        max_file_bytes: of an uploaded file.
        max_upload_bytes: of all files in one upload.

    Raises:
        ConfigError: the port is taken.
    """
    app.queue(max_size=4 * jobs, default_concurrency_limit=None)
    try:
        _, local, public = app.launch(
            server_port=port,
            share=share,
            auth=list(access.logins) if access and access.logins else None,
            root_path=access.root_path if access else None,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            inbrowser=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api", "settings"],
            max_threads=jobs + _THREADS,
            allowed_paths=list(served),
            max_file_size=max_file_bytes,
            app_kwargs={"middleware": [Middleware(Gate, max_upload=max_upload_bytes)]},
            theme=_theme(),
            css_paths=HERE / "style.css",
            head_paths=HERE / "head.html",
        )
    except OSError as error:
        taken = port or "7860 or any later one"
        raise ConfigError(f"Cannot listen on port {taken}: name a free port with --port.") from error
    try:
        ready(told_address(local, public, share=share))
        app.block_thread()
    finally:
        app.close(verbose=False)


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
