"""Properties of a run: iterating over it, stopping it, leaving it, and its result."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.run import RefinementRun  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Attempt, Region, Size  # noqa: E402

PROMPT = "a red hand left of a green clock"
ROUNDS = 3


def relenting() -> ScriptedDetector:
    """Finds one flaw, smaller each time."""
    severities = itertools.accumulate(itertools.repeat(0.8), lambda before, share: before * share)

    def look(image: Image.Image) -> Analysis:
        flaw = Region(mask=None, box=(8, 8, 20, 20), name="hand", category=Category.ANATOMY, severity=next(severities))
        return Analysis(size=Size(image.height, image.width), regions=(flaw,), detector="scripted")

    return ScriptedDetector(look)


def refined(**options: Any) -> RefinedPipeline:
    config = RefineConfig(max_rounds=ROUNDS, strengths=(0.5,))
    return RefinedPipeline(
        stable_diffusion(), detector=relenting(), config=config, call={"num_inference_steps": 2}, **options
    )


def told(attempts: list[Attempt] | tuple[Attempt, ...]) -> list[tuple[object, ...]]:
    return [
        (each.index, each.action, each.prompt, each.seed, each.image and each.image.tobytes(), each.reason, each.calls)
        for each in attempts
    ]


def state(pipe: Any) -> dict[str, Any]:
    """The parts of a pipeline, and the names of their instance attributes, where replaced methods would be."""
    parts = {"": pipe, **pipe.components}
    return {name: (id(part), sorted(getattr(part, "__dict__", ()))) for name, part in parts.items()}


def test_iterating_gives_the_attempts_of_the_result() -> None:
    whole = refined().stream(PROMPT, seed=1).result
    run = refined().stream(PROMPT, seed=1)
    attempts = [next(run), *run]
    assert len(attempts) == ROUNDS + 1
    assert run.result.attempts == tuple(attempts)
    assert told(attempts) == told(whole.attempts)
    assert (run.result.stop, run.result.best) == (whole.stop, whole.best) == ("rounds", ROUNDS)
    assert run.result.settings == whole.settings
    assert list(run) == []


@pytest.mark.parametrize("made", range(1, ROUNDS + 2))
def test_stopping_is_what_a_callback_that_returns_true_does(made: int) -> None:
    called = refined()(PROMPT, seed=1, callback_on_attempt=lambda attempt: attempt.index == made - 1).results[0]
    run = refined().stream(PROMPT, seed=1)
    for attempt in run:
        if attempt.index == made - 1:
            run.stop()
    assert told(run.result.attempts) == told(called.attempts)
    assert (run.result.stop, run.result.best) == (called.stop, called.best) == ("interrupted", made - 1)


def test_a_callback_ends_its_own_picture_alone() -> None:
    results = refined()([PROMPT, "a cat"], seed=1, callback_on_attempt=lambda attempt: attempt.index == 1).results
    assert [(result.stop, len(result.attempts)) for result in results] == [("interrupted", 2)] * 2


def test_a_run_stopped_from_another_thread_leaves_out_what_is_being_painted() -> None:
    steps = itertools.count()

    def on_step(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(steps) == 2:  # the first of the second attempt
            thread = threading.Thread(target=run.stop)
            thread.start()
            thread.join()
        return tensors

    pipe = refined()
    run = pipe.stream(PROMPT, seed=1, strategy="regenerate", callback_on_step_end=on_step)
    result = run.result
    assert (result.stop, result.best, len(result.attempts)) == ("interrupted", 0, 2)
    assert result.attempts[1].image is None
    assert result.attempts[1].calls.denoiser_rows == 2
    assert pipe.stream(PROMPT, seed=1).result.stop == "rounds"


def test_a_run_that_is_stopped_ends_no_other() -> None:
    pipe = refined()
    steps = itertools.count()

    def on_step(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(steps) == 0:
            first.stop()
        return tensors

    first = pipe.stream(PROMPT, seed=1, callback_on_step_end=on_step)
    second = pipe.stream(PROMPT, seed=2)
    next(second)
    assert first.result.stop == "interrupted"
    assert [attempt.action for attempt in second] == ["inpaint"] * ROUNDS
    assert second.result.stop == "rounds"


def test_a_run_that_was_left_goes_on_where_it_was() -> None:
    whole = refined().stream(PROMPT, seed=1).result
    run = refined().stream(PROMPT, seed=1)
    for attempt in run:
        if attempt.index == 1:
            break
    assert (run.so_far.stop, run.so_far.best) == ("interrupted", 1)
    assert run.so_far.attempts == tuple(run.attempts)
    assert told(run.result.attempts) == told(whole.attempts)
    assert run.result.stop == "rounds"


def leave_by_break(run: RefinementRun) -> None:
    for _ in run:
        break


def leave_by_exception(run: RefinementRun) -> None:
    def consume() -> None:
        for _ in run:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_exception])
def test_leaving_a_run_leaves_the_pipeline_as_it_was(leave: Any) -> None:
    pipe = refined()
    whole = pipe.stream(PROMPT, seed=1).result
    before = state(pipe.pipe)
    run = pipe.stream(PROMPT, seed=1)
    leave(run)
    assert len(run.attempts) == 1
    del run
    assert state(pipe.pipe) == before
    pipe.detector = relenting()
    assert told(pipe.stream(PROMPT, seed=1).result.attempts) == told(whole.attempts)


def test_what_was_made_before_the_user_interrupts_is_kept() -> None:
    steps = itertools.count()

    def on_step(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(steps) == 2:
            raise KeyboardInterrupt
        return tensors

    pipe = refined()
    run = pipe.stream(PROMPT, seed=1, strategy="regenerate", callback_on_step_end=on_step)
    first = next(run)
    before = state(pipe.pipe)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert state(pipe.pipe) == before
    assert run.result.attempts == (first,)
    assert (run.result.stop, run.result.best) == ("interrupted", 0)
    assert run.result.settings["index"] == 0


def test_an_exception_before_the_first_attempt_leaves_no_result() -> None:
    def on_step(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    run = refined().stream(PROMPT, seed=1, callback_on_step_end=on_step)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    with pytest.raises(ConfigError, match="no attempt"):
        _ = run.result
