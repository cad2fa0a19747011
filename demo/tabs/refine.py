"""The tab that refines an image: it only connects components and handlers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from refiner.demo.components import Row, guarded, html, nothing, picture
from refiner.demo.example import read_example
from refiner.demo.settings import BUNDLED, DemoSettings
from refiner.demo.studio import Refined, RefineRequest, Studio
from refiner.demo.uploads import read_upload
from refiner.demo.views.candidates import candidate_choices, candidates, read_choice
from refiner.demo.views.refine import comparison, plots, refinement_outcome, timeline
from refiner.demo.views.status import progress_line, status_line
from refiner.errors import InputError
from refiner.micro.examples import EXAMPLES
from refiner.pipelines.config import RefineConfig, Strategy
from refiner.records import result_summary
from refiner.reports.result import save_result
from refiner.types import RefinementResult

_OUTPUTS = 8
_REFUSED = "The server could not use the request: load the page again, and upload the image again."
_FILES = ("best", "run", "report")


def refine_tab(studio: Studio) -> None:
    """Add the components: prompt, image and settings as inputs; before and after, plots and attempts as outputs."""
    settings = studio.settings
    first = _first_screen(settings)
    with gr.Row(elem_classes="rf-split"):
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                EXAMPLES[0].prompt,
                label="Prompt",
                lines=3,
                max_lines=6,
                max_length=settings.max_prompt,
                elem_id="rf-prompt",
            )
            usual = EXAMPLES[0].seed
            seed = gr.Number(usual, label="Seed", precision=0, minimum=0, maximum=2**53, min_width=100, render=False)
            gr.Examples(
                [list(example) for example in EXAMPLES],
                [prompt, seed],
                label="Try one of these",
                api_visibility="private",
                preload=False,
            )
            with gr.Row():
                run = gr.Button("Refine", variant="primary", elem_id="rf-refine", scale=3)
                stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="rf-stop", scale=1, min_width=90)
            strategy = gr.Radio(
                [("Automatic", "auto"), ("Inpaint flaws", "inpaint"), ("Regenerate", "regenerate")],
                value="auto",
                label="Strategy",
            )
            with gr.Row():
                most = settings.max_rounds
                rounds = gr.Slider(0, most, min(RefineConfig.max_rounds, most), step=1, label="Rounds")
                seed.render()
            with gr.Accordion("Start from your own image", open=False):
                image = picture("Your image", height=220, elem_id="rf-refine-image")
            with gr.Accordion("Models", open=len(settings.models) > 1 or len(settings.detectors) > 1):
                model = gr.Dropdown(list(settings.models), value=next(iter(settings.models)), label="Model")
                detector = gr.Dropdown(list(settings.detectors), value=next(iter(settings.detectors)), label="Detector")
        with gr.Column(scale=3, min_width=320):
            status = html("", "rf-refine-status", first.status)
            compared = html("The images before and after appear here.", "rf-refine-comparison", first.compared)
            with gr.Row():
                files = [
                    gr.DownloadButton(label, interactive=False, size="sm", min_width=90, elem_id=f"rf-download-{name}")
                    for label, name in zip(("Image", "Run record", "Report"), _FILES, strict=True)
                ]
    picks = _picks()
    gr.HTML("<h2>Round by round</h2>", padding=False, js_on_load=None)
    charts = html("The values of detector and judge for each attempt appear here.", "rf-refine-plots", first.charts)
    gr.HTML("<h2>Attempts</h2>", padding=False, js_on_load=None)
    attempts = html("Every generated image and its flaws appear here.", "rf-refine-attempts", first.attempts)
    summary = gr.JSON(visible=False)

    handler = guarded(_refining(studio), _OUTPUTS)
    inputs = [prompt, image, strategy, rounds, seed, model, detector]
    outputs = [status, compared, charts, attempts, summary, *files]
    begin, refined = wire(studio, (run, stop), handler, inputs, outputs, files, "refine", [prompt.submit])
    _wire_picks(studio, picks, (begin, refined), stop, outputs, files)


class _FirstScreen(NamedTuple):
    """What the outputs show before the first run; each is empty without an example."""

    status: str = ""
    compared: str = ""
    charts: str = ""
    attempts: str = ""


def _first_screen(settings: DemoSettings) -> _FirstScreen:
    """The example, if the demo has the models that made it."""
    if BUNDLED not in settings.models.values():
        return _FirstScreen()
    example = read_example()
    told = f'An example, refined earlier: "{example.prompt}", seed {example.attempts[0].seed}.'
    return _FirstScreen(status_line(told, kind="example"), *_shown(example))


class Picks(NamedTuple):
    """The components that show the candidates of regions, and let one be picked."""

    section: gr.Column
    shown: gr.HTML
    choice: gr.Radio
    use: gr.Button


def _picks() -> Picks:
    """Add the components, which are hidden until there are candidates."""
    with gr.Column(visible=False, elem_id="rf-picks") as section:
        gr.HTML("<h2>Candidates</h2>", padding=False, js_on_load=None)
        shown = html("", "rf-candidates")
        with gr.Row():
            choice = gr.Radio([], label="Put another one into the image", elem_id="rf-choice", scale=3)
            choice.preprocess = _as_sent  # type: ignore[method-assign]
            use = gr.Button("Use it", elem_id="rf-pick", scale=1, min_width=110)
    return Picks(section, shown, choice, use)


def _as_sent(payload: str | int | float | None) -> str | int | float | None:
    """The choice, unchecked: a program that calls the endpoint has not loaded the choices."""
    return payload


def _wire_picks(
    studio: Studio,
    picks: Picks,
    refining: tuple[Any, Any],
    stop: gr.Button,
    outputs: list[Any],
    files: list[gr.DownloadButton],
) -> None:
    """Show candidates when a refinement ends, and connect the button that picks one."""
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def offer(request: gr.Request) -> Row:
        result = studio.latest(str(request.session_hash))
        if result is None or not result.candidates:
            return gr.update(visible=False), "", gr.update(choices=[], value=None)
        return gr.update(visible=True), candidates(result), gr.update(choices=candidate_choices(result), value=None)

    begin, refined = refining
    begin.then(lambda: gr.update(visible=False), None, picks.section, **quiet)
    handler = guarded(_picking(studio), _OUTPUTS)
    _, picked = wire(studio, (picks.use, stop), handler, [picks.choice], outputs, files, "pick")
    for work in (refined, picked):
        work.then(offer, None, [picks.section, picks.shown, picks.choice], **quiet)


def wire(
    studio: Studio,
    buttons: tuple[gr.Button, gr.Button],
    handler: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    files: list[gr.DownloadButton],
    name: str,
    others: Sequence[Any] = (),
) -> tuple[Any, Any]:
    """Connect a handler to its start and stop buttons, which are disabled while they cannot be used.

    What an earlier run has shown stays on the page until the handler yields something else.

    Args:
        studio: runs the jobs.
        buttons: the start and the stop button.
        handler: a generator of output values.
        inputs: inputs of the handler.
        outputs: outputs of the handler, the status line first.
        files: the outputs that are download buttons.
        name: name of the API endpoint.
        others: further events that start the handler.

    Returns:
        The events when the handler begins and when it has ended.
    """
    run, stop = buttons

    def state(busy: bool, *paths: str | None) -> list[Any]:
        return [gr.update(interactive=on) for on in (not busy, busy, *(bool(path) for path in paths))]

    def stopping(request: gr.Request) -> None:
        studio.desk.stop(str(request.session_hash))

    def began() -> tuple[Any, ...]:
        return *state(True), status_line("Starting.", 0.0)

    def failed(told: str) -> tuple[Any, ...]:
        """If Gradio itself refused the inputs, the status line does not show an error yet."""
        said = gr.skip() if "rf-bad" in (told or "") else status_line(_REFUSED, kind="bad")
        return *state(False), said

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    begin = gr.on([run.click, *others], began, None, [run, stop, outputs[0]], **quiet)
    work = begin.then(
        handler, inputs, outputs, api_name=name, show_progress="hidden", concurrency_limit=None, trigger_mode="once"
    )
    work.failure(failed, outputs[0], [run, stop, outputs[0]], **quiet)
    work.success(lambda *paths: state(False, *paths), files or None, [run, stop, *files], **quiet)
    stop.click(stopping, None, None, api_name=f"stop_{name}", queue=False, show_progress="hidden")
    return begin, work


def _refining(studio: Studio) -> Callable[..., Iterator[Row]]:
    def refine(
        prompt: str,
        image: str | None,
        strategy: Strategy,
        rounds: int,
        seed: int,
        model: str,
        detector: str,
        request: gr.Request,
    ) -> Iterator[Row]:
        wanted = RefineRequest(
            prompt=prompt or "",
            model=model,
            detector=detector,
            strategy=strategy,
            rounds=int(rounds or 0),
            seed=int(seed or 0),
            image=None if image is None else read_upload(image, studio.settings),
        )
        yield (status_line("Starting.", 0.0), *nothing(_OUTPUTS - 1))
        result = None
        for event in studio.refine(str(request.session_hash), wanted):
            if not isinstance(event, Refined):
                yield (progress_line(event, wanted.rounds), *nothing(_OUTPUTS - 1))
                continue
            result = event.result
            if not event.over:
                yield (gr.skip(), *_shown(result), None, *[gr.update(value=None, interactive=False) for _ in _FILES])
        if result is None:
            yield (status_line("Stopped before there was an image."), *nothing(_OUTPUTS - 1))
            return
        config = {"model": model, "detector": detector, "strategy": strategy, "rounds": wanted.rounds}
        config |= {"seed": wanted.seed, "own_picture": image is not None}
        yield from _finished(result, config)

    return refine


def _picking(studio: Studio) -> Callable[..., Iterator[Row]]:
    def pick(choice: str | None, request: gr.Request) -> Iterator[Row]:
        chosen = read_choice(choice)
        if chosen is None:
            raise InputError("Choose a candidate first.")
        result = None
        for event in studio.pick(str(request.session_hash), *chosen):
            if isinstance(event, Refined):
                result = event.result
            else:
                yield (progress_line(event), *nothing(_OUTPUTS - 1))
        if result is None:
            yield (status_line("Stopped before the candidate was in the image."), *nothing(_OUTPUTS - 1))
            return
        yield from _finished(result, {"picked": dict(result.attempts[-1].choice)})

    return pick


def _finished(result: RefinementResult, config: dict[str, Any]) -> Iterator[Row]:
    """The final values of all outputs; the files are there until the generator is closed."""
    with tempfile.TemporaryDirectory(prefix="refiner-demo-") as folder:
        saved = save_result(result, folder, config)
        files = [saved.get(name) for name in _FILES]
        yield (refinement_outcome(result), *_shown(result), result_summary(result, {}), *files)


def _shown(result: RefinementResult) -> Row:
    return comparison(result), plots(result), timeline(result)
