"""The page of ``refiner verify`` as a Gradio app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gradio as gr

from refiner.demo.serving import launch
from refiner.demo.tabs.verify import VerifyPanel
from refiner.verify.verification import Verification

_HEADER: Final = '<header class="rf-header rf-short"><h1>refiner verify</h1></header>'
_HINT: Final = "Everything is kept. Stop the server, and run refiner verify again with --summary or --export FOLDER."
_JOBS: Final = 16


def build(verification: Verification, *, annotator: str | None, blind: bool) -> gr.Blocks:
    """Build the app without launching it.

    Args:
        verification: candidates and judgements.
        annotator: the name of the annotator; None to ask for it.
        blind: hide what could sway the annotator.
    """
    with gr.Blocks(title="refiner verify", analytics_enabled=False) as app:
        gr.HTML(_HEADER, padding=False, js_on_load=None)
        panel = VerifyPanel(
            lambda _request: verification,
            annotator=annotator,
            blind=blind,
            empty="Give your name to begin. Keys: A accept, R reject, U unsure, Z undo.",
            hint=_HINT,
        )
        panel.show_on(app.load)
    return app


def serve(
    verification: Verification, *, annotator: str | None, blind: bool, port: int | None, ready: Callable[[str], None]
) -> None:
    """Serve the page on this machine until the process is interrupted.

    Args:
        verification: candidates and judgements.
        annotator: the name of the annotator; None to ask for it.
        blind: hide what could sway the annotator.
        port: port to listen on; None: the first free one from 7860.
        ready: called with the address when the page can be reached.

    Raises:
        ConfigError: the port is taken.
    """
    launch(build(verification, annotator=annotator, blind=blind), jobs=_JOBS, port=port, ready=ready)
