"""Functions and simple objects as the parts of a pipeline: they work, are recorded, and what they do wrong is told."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from refiner.detectors.joint import JointDetector  # noqa: E402
from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError, RefinerWarning  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.judges import BurdenJudge, JointJudge, judges_of  # noqa: E402
from refiner.protocols import Revision  # noqa: E402
from refiner.records import to_record  # noqa: E402
from refiner.types import Attempt, Calls, RefinementResult  # noqa: E402

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"
CONFIG = RefineConfig(max_rounds=2, patience=3, min_burden_drop=0.001, strengths=(0.5, 1.0))


def bright(image: Image.Image) -> list[dict[str, Any]]:
    """The share of light is the severity."""
    return [{"name": "the hand", "box": (8, 8, 20, 20), "severity": np.asarray(image)[8:20, 8:20].mean() / 255}]


class Contrast:
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        return np.asarray([np.asarray(image).std() for image in images])


def length(image: Image.Image, prompt: str) -> float:
    return len(prompt)


@pytest.fixture(scope="module")
def pipe(model: str) -> RefinedPipeline:
    pipe = RefinedPipeline.from_pretrained(model, detector=bright, judge=Contrast(), config=CONFIG)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: RefinedPipeline, **options: Any) -> RefinementResult:
    return pipe(PROMPT, seed=5, **options).results[0]


def test_a_function_and_an_object_with_score_refine(pipe: RefinedPipeline) -> None:
    result = run(pipe)
    assert len(result.attempts) > 2
    assert {attempt.error for attempt in result.attempts} == {None}
    assert {score.name for attempt in result.attempts for score in attempt.scores} == {"Contrast"}
    assert {attempt.analysis.detector for attempt in result.attempts} == {"bright"}
    best, first = result.attempts[result.best], result.attempts[0]
    assert best.analysis.burden <= first.analysis.burden
    assert best.scores[0].value >= first.scores[0].value
    settings = result.settings
    assert (settings["detector"]["name"], settings["judges"][0]["name"]) == ("bright", "Contrast")


def test_a_plain_detector_gives_what_a_complete_one_gives(pipe: RefinedPipeline) -> None:
    complete = ScriptedDetector(lambda image: pipe.detector(image), name="bright")
    assert np.array_equal(run(pipe.with_parts(detector=complete)).image, run(pipe).image)


def test_a_wrapped_part_stays_what_it_is(pipe: RefinedPipeline) -> None:
    assert pipe.with_parts(judge=None).detector is pipe.detector
    assert pipe.with_parts(detector=dark).judge is pipe.judge


PARTS: dict[str, Callable[[], tuple[dict[str, Any], str, list[str]]]] = {
    "a list of judges": lambda: ({"judge": [Contrast(), length]}, "bright", ["Contrast", "length"]),
    "joint judges": lambda: ({"judge": JointJudge([length, Contrast()])}, "bright", ["length", "Contrast"]),
    "the burden of a function": lambda: ({"judge": BurdenJudge(bright)}, "bright", ["burden:bright"]),
    "joint detectors": lambda: ({"detector": JointDetector([bright, dark])}, "bright & dark", ["Contrast"]),
    "a function instead": lambda: ({"detector": dark}, "dark", ["Contrast"]),
}


def dark(image: Image.Image) -> list[dict[str, Any]]:
    return [{"name": "the clock", "box": (40, 40, 52, 52), "severity": 1 - np.asarray(image).mean() / 255}]


@pytest.mark.parametrize("parts", PARTS.values(), ids=list(PARTS))
def test_plain_parts_are_taken_wherever_parts_are(
    pipe: RefinedPipeline, parts: Callable[[], tuple[dict[str, Any], str, list[str]]]
) -> None:
    changes, detector, judges = parts()
    own = pipe.with_parts(**changes)
    assert own.detector.name == detector
    assert [judge.name for judge in judges_of(own.judge)] == judges
    result = run(own, max_rounds=1)
    assert [attempt.error for attempt in result.attempts] == [None] * 2
    assert [score.name for score in result.attempts[0].scores] == judges


def after(first: Callable[..., Any], answer: Any) -> Callable[..., Any]:
    """Answers once as ``first``, and then with ``answer``."""
    asked: list[object] = []

    def broken(image: Image.Image) -> Any:
        asked.append(image)
        return first(image) if len(asked) == 1 else answer

    return broken


WRONG = {
    "nothing": (None, "got None"),
    "a text": ("no flaw", "got str 'no flaw'"),
    "an unknown category": ([{"name": "it", "category": "anatmy"}], "the nearest is 'anatomy'"),
    "a box outside": ([{"name": "it", "box": (0, 0, 99, 99)}], "inside the image of 64x64 pixels"),
}


@pytest.mark.parametrize(("answer", "said"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_answer_is_recorded_and_never_clean(pipe: RefinedPipeline, answer: Any, said: str) -> None:
    with pytest.warns(RefinerWarning, match="No image could be analysed"):
        at_once = run(pipe.with_parts(detector=lambda image: answer))
    assert at_once.stop != "clean"
    assert all(said in attempt.error and "detector lambda" in attempt.error for attempt in at_once.attempts)
    later = run(pipe.with_parts(detector=after(bright, answer)))
    assert later.best == 0
    assert later.attempts[0].error is None
    assert all(said in attempt.error for attempt in later.attempts[1:])


@pytest.mark.parametrize("answer", [None, "good", [], [1.0, 2.0], [float("nan")], [None]])
def test_a_wrong_score_is_recorded_with_the_name_of_the_judge(pipe: RefinedPipeline, answer: Any) -> None:
    class Broken:
        def score(self, images: object, prompts: object) -> Any:
            return answer

    result = run(pipe.with_parts(judge=Broken()), max_rounds=1)
    assert result.best == 0
    assert "The judge Broken returned" in result.attempts[0].error
    assert result.attempts[0].analysis is not None


@pytest.mark.parametrize("part", ["detector", "judge", "reviser"])
@pytest.mark.parametrize("wrong", [3, object(), ScriptedDetector])
def test_what_is_no_part_is_refused_when_it_is_passed(pipe: RefinedPipeline, part: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"Expected a {part}, got "):
        pipe.with_parts(**{part: wrong})


class Moved:
    """A nameless detector with weights, which uses the pipeline."""

    def __init__(self) -> None:
        self.network, self.asked = torch.nn.Linear(4, 4), []

    def __call__(self, image: Image.Image) -> Any:
        return bright(image)

    def bind(self, pipe: object) -> None:
        self.asked.append(pipe)

    def to(self, device: object) -> None:
        self.asked.append(str(device))

    def spent(self) -> Calls:
        return Calls(denoiser_rows=1000 * len(self.asked))


def test_abilities_of_a_plain_detector_are_used(pipe: RefinedPipeline) -> None:
    moved = Moved()
    own = pipe.with_parts(detector=moved)
    assert moved.asked == [pipe.pipe]
    own.to("cpu")
    assert moved.asked == [pipe.pipe, "cpu"]


def test_weights_in_a_function_are_part_of_the_record(pipe: RefinedPipeline) -> None:
    first, second = Moved(), Moved()
    for find in (lambda held: held, lambda held: held.__call__, lambda held: functools.partial(call, held.network)):
        one, again, other = (
            run(pipe.with_parts(detector=find(held)), max_rounds=0).settings["detector"]["weights"]
            for held in (first, copy.deepcopy(first), second)
        )
        assert len(one) == 1
        assert one == again
        assert one.keys() == other.keys()
        assert one != other


def call(network: object, image: Image.Image) -> Any:
    return bright(image)


def test_a_run_with_plain_parts_can_be_reproduced(pipe: RefinedPipeline) -> None:
    result = run(pipe)
    record = json.loads(json.dumps(to_record(result, None, {})))
    assert np.array_equal(pipe.replay(record).image, result.image)
    with pytest.raises(ConfigError, match=r"another detector \(dark instead of bright\)"):
        pipe.with_parts(detector=dark).replay(record)
    with pytest.raises(ConfigError, match=r"other judges \(length instead of Contrast\)"):
        pipe.with_parts(judge=length).replay(record)
    with pytest.raises(ConfigError, match=r"another reviser \(more instead of TemplateReviser\)"):
        pipe.with_parts(reviser=more).replay(record)


def test_a_saved_pipeline_asks_for_plain_parts_again(pipe: RefinedPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no saved detector"):
        RefinedPipeline.from_pretrained(tmp_path)
    assert RefinedPipeline.from_pretrained(tmp_path, detector=bright).detector.name == "bright"


def more(prompt: str, history: Sequence[Attempt]) -> str:
    return f"{prompt}, attempt {len(history)}"


def revised(prompt: str, history: Sequence[Attempt]) -> Revision:
    return Revision(prompt=more(prompt, history), negative_prompt="blur", note="a note")


@pytest.mark.parametrize(("reviser", "negative", "note"), [(more, "", ""), (revised, "blur", "a note")])
def test_a_function_revises_the_prompt(pipe: RefinedPipeline, reviser: Any, negative: str, note: str) -> None:
    result = run(pipe.with_parts(reviser=reviser), strategy="regenerate")
    assert [attempt.prompt for attempt in result.attempts] == [PROMPT, f"{PROMPT}, attempt 1", f"{PROMPT}, attempt 2"]
    assert [attempt.negative_prompt for attempt in result.attempts[1:]] == [negative] * 2
    assert [attempt.note for attempt in result.attempts[1:]] == [note] * 2
    assert run(pipe.with_parts(reviser=reviser), strategy="inpaint").attempts[1].error is None


@pytest.mark.parametrize("answer", [None, "", " ", 3, ["a hand"]])
def test_a_wrong_prompt_is_replaced_and_told(pipe: RefinedPipeline, answer: Any) -> None:
    usual = run(pipe, strategy="regenerate", max_rounds=1).attempts[1]
    attempt = run(pipe.with_parts(reviser=lambda *_: answer), strategy="regenerate", max_rounds=1).attempts[1]
    assert attempt.prompt == usual.prompt
    assert "because the reviser lambda returned" in attempt.note
