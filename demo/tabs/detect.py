"""The tab that analyses an image: it only connects components and handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from refiner.demo.components import Row, guarded, html, nothing, picture
from refiner.demo.reviews import Reviews
from refiner.demo.studio import Looked, Studio
from refiner.demo.tabs.refine import wire
from refiner.demo.uploads import read_upload
from refiner.demo.views.detect import answers
from refiner.demo.views.status import progress_line, status_line
from refiner.errors import InputError
from refiner.records import analysis_summary
from refiner.types import Analysis

_OUTPUTS = 3


def detect_tab(studio: Studio, examples: Sequence[str], reviews: Reviews) -> None:
    """Add the components: an image and detectors as inputs, the analysis of each detector as output.

    Args:
        studio: provides the detectors.
        examples: paths of example images.
        reviews: gets the answers, so that the visitor can judge them.
    """
    names = list(studio.settings.detectors)
    with gr.Row(elem_classes="rf-split"):
        with gr.Column(scale=2, min_width=300):
            image = picture("Image", height=300, elem_id="rf-detect-image")
            if examples:
                gr.Examples(
                    [[path] for path in examples],
                    [image],
                    label="Try one of these",
                    api_visibility="private",
                    preload=False,
                )
            prompt = gr.Textbox(
                "",
                label="Prompt of the image, if known",
                max_length=studio.settings.max_prompt,
                elem_id="rf-detect-prompt",
            )
            detectors = gr.CheckboxGroup(names, value=names, label="Detectors")
            with gr.Row():
                run = gr.Button("Analyse", variant="primary", elem_id="rf-detect", scale=3)
                stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=90)
        with gr.Column(scale=3, min_width=320):
            status = html("", "rf-detect-status")
            shown = html("The detected flaws appear here.", "rf-detect-answers")
    summary = gr.JSON(visible=False)
    handler = guarded(_detecting(studio, reviews), _OUTPUTS)
    wire(studio, (run, stop), handler, [image, detectors, prompt], [status, shown, summary], [], "detect")


def _detecting(studio: Studio, reviews: Reviews) -> Callable[..., Iterator[Row]]:
    def detect(image: str | None, detectors: list[str], prompt: str, request: gr.Request) -> Iterator[Row]:
        if image is None:
            raise InputError("Upload an image first, or paste one.")
        given = read_upload(image, studio.settings)
        yield (status_line("Starting.", 0.0), *nothing(_OUTPUTS - 1))
        said: dict[str, Any] = {}
        session = str(request.session_hash)
        for event in studio.detect(session, given, detectors, prompt):
            if not isinstance(event, Looked):
                yield (progress_line(event), *nothing(_OUTPUTS - 1))
                continue
            said = dict(event.answers)
            share = None if event.over else len(said) / len(detectors)
            size = f"{given.width} x {given.height} pixels"
            told = f"{len(said)} of {len(detectors)} detectors analysed the image ({size})."
            reviews.open(session, given, {name: each for name, each in said.items() if isinstance(each, Analysis)})
            yield status_line(told, share), answers(given, said), _summary(said)
        if len(said) < len(detectors):
            yield (status_line("Stopped."), *nothing(_OUTPUTS - 1))

    return detect


def _summary(said: dict[str, Analysis | str]) -> dict[str, Any]:
    return {
        name: analysis_summary(answer) if isinstance(answer, Analysis) else {"error": answer}
        for name, answer in said.items()
    }
