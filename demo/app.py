"""The demo as a Gradio app. It connects the parts; ``refiner.demo.views`` makes what is shown."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import gradio as gr

from refiner.demo.examples import write_pictures
from refiner.demo.reviews import Reviews
from refiner.demo.serving import launch
from refiner.demo.settings import Access
from refiner.demo.studio import Studio
from refiner.demo.tabs.detect import detect_tab
from refiner.demo.tabs.evaluate import evaluate_tab
from refiner.demo.tabs.refine import refine_tab
from refiner.demo.tabs.verify import review_panel

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
        reviews = Reviews()
        with gr.Tab("Detect"):
            detect_tab(studio, examples, reviews)
        with gr.Tab("Verify") as verify:
            panel = review_panel(reviews)
        with gr.Tab("Evaluate"):
            evaluate_tab(studio)

        def leave(request: gr.Request) -> None:
            session = str(request.session_hash)
            studio.desk.stop(session)
            studio.forget(session)
            reviews.drop(session)

        panel.show_on(verify.select)
        demo.unload(leave)
    return demo


def serve(studio: Studio, *, port: int | None, share: bool, access: Access, ready: Callable[[str], None]) -> None:
    """Serve the app until the process is interrupted.

    Args:
        studio: models and jobs of the demo.
        port: port to listen on; None: the first free one from 7860.
        share: whether Gradio's tunnel makes the demo public.
        access: who may visit the demo, and where a reverse proxy serves it.
        ready: called with the text of ``told_address`` when the app can be reached.

    Raises:
        ConfigError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="refiner-demo-") as folder:
        bundled = any(id_.startswith("micro") for id_ in studio.settings.detectors.values())
        settings = studio.settings
        launch(
            build(studio, write_pictures(Path(folder)) if bundled else ()),
            jobs=settings.running + settings.waiting,
            port=port,
            ready=ready,
            share=share,
            access=access,
            served=[folder],
            max_file_bytes=settings.max_file_bytes,
            max_upload_bytes=settings.max_request_bytes,
        )
