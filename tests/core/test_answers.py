"""What a plain detector may answer, what it may not, and what the message says then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from refiner.answers import analyses, read_analysis, score_outcomes, scores
from refiner.claims import DEFAULT_CATEGORY, DEFAULT_SEVERITY
from refiner.errors import BadAnswerError, ModelError, RefinerError
from refiner.masks import clip_box
from refiner.plain import as_detector
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Region, Size

torch = pytest.importorskip("torch")

IMAGE = Image.new("RGB", (64, 48))
SIZE = Size(48, 64)
MASK = np.zeros((48, 64), dtype=np.bool_)
MASK[10:20, 5:25] = True
BOX = (5, 10, 25, 20)
REGION = Region(mask=MASK, box=BOX, name="a spot", category=Category.COLOR)


def read(answer: object) -> Analysis:
    return read_analysis(answer, IMAGE, "mine")


def flaw(**fields: object) -> list[dict[str, object]]:
    return [{"name": "a spot", **fields}]


BOXES: dict[str, Any] = {
    "tuple": BOX,
    "list": list(BOX),
    "numbers of numpy": tuple(map(np.int64, BOX)),
    "array": np.asarray(BOX),
    "floats": np.asarray(BOX, dtype=np.float32),
    "tensor": torch.tensor(BOX),
    "half": torch.tensor(BOX, dtype=torch.bfloat16, requires_grad=True),
    "list of tensors": list(torch.tensor(BOX)),
    "sides": {"xmin": 5, "ymin": 10, "xmax": 25, "ymax": 20},
    "rounded outwards": (5.9, 10.1, 24.1, 19.2),
}
MASKS: dict[str, Any] = {
    "bool": MASK,
    "0 and 1": MASK.astype(np.int32),
    "0.0 and 1.0": MASK.astype(np.float16),
    "0 and 255": MASK.astype(np.uint8) * 255,
    "lists": MASK.tolist(),
    "tensor": torch.from_numpy(MASK),
    "float tensor": torch.from_numpy(MASK).float().requires_grad_(),
    "image": Image.fromarray(MASK.astype(np.uint8) * 255),
    "image of bits": Image.fromarray(MASK),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=list(BOXES))
def test_every_kind_of_box_is_the_same_box(box: object) -> None:
    (region,) = read(flaw(box=box)).regions
    assert region.box == BOX
    assert all(type(side) is int for side in region.box)
    assert region.mask is None


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_every_kind_of_mask_is_the_same_mask(mask: object) -> None:
    (region,) = read(flaw(mask=mask)).regions
    assert region.mask is not None
    assert region.mask.dtype == np.bool_
    assert np.array_equal(region.mask, MASK)
    assert region.box == BOX


ALIKE: dict[str, Callable[[], Any]] = {
    "a list": lambda: [REGION, *flaw(box=BOX)],
    "a tuple": lambda: (REGION, *flaw(box=BOX)),
    "a generator": lambda: iter([REGION, *flaw(box=BOX)]),
    "an analysis": lambda: Analysis(size=SIZE, regions=(REGION, REGION), detector="mine"),
    "an analysis with a plain size and a list": lambda: Analysis(size=(48, 64), regions=[REGION] * 2, detector="mine"),  # type: ignore[arg-type]
    "claims": lambda: [Claim(name="a spot", box=BOX)] * 2,
}


@pytest.mark.parametrize("answer", ALIKE.values(), ids=list(ALIKE))
def test_every_kind_of_answer_becomes_an_analysis(answer: Callable[[], Any]) -> None:
    analysis = read(answer())
    assert analysis.size == SIZE
    assert analysis.size.width == 64
    assert analysis.detector == "mine"
    assert [(region.name, region.box) for region in analysis.regions] == [("a spot", BOX)] * 2


@pytest.mark.parametrize("category", ["anatomy", "Anatomy", Category.ANATOMY, "structure"])
def test_a_category_is_given_by_any_of_its_names(category: str) -> None:
    (first,) = read(flaw(box=BOX, category=category)).regions
    second = Region(mask=None, box=BOX, name="a spot", category=category)  # type: ignore[arg-type]
    assert first.category is second.category is Category.ANATOMY


@pytest.mark.parametrize("number", [0.25, np.float32(0.25), torch.tensor(0.25), np.asarray([0.25])])
def test_severity_and_score_are_numbers_of_any_kind(number: object) -> None:
    (region,) = read(flaw(severity=number, score=number)).regions
    assert (region.severity, region.score) == (0.25, 0.25)
    assert type(region.severity) is type(region.score) is float


def test_what_is_missing_or_none_has_the_usual_values() -> None:
    left_out, empty = read([{"label": "a spot"}, *flaw(box=None, severity=None, score=None, category=None)]).regions
    for region in (left_out, empty):
        assert (region.name, region.category, region.severity) == ("a spot", DEFAULT_CATEGORY, DEFAULT_SEVERITY)
        assert region.score == 1.0


def test_texts_are_kept() -> None:
    texts = {"location": "by the door", "explanation": "six fingers", "reasoning": "a hand has five"}
    (region,) = read(flaw(box=BOX, **texts)).regions
    assert {name: getattr(region, name) for name in texts} == texts


def test_an_empty_mask_is_no_flaw_unless_there_is_a_box() -> None:
    nothing = np.zeros_like(MASK)
    assert read(flaw(mask=nothing)).regions == ()
    (region,) = read(flaw(mask=nothing, box=BOX)).regions
    assert (region.mask, region.box) == (None, BOX)


@pytest.mark.parametrize("box", [(-0.5, 3, 64.9, 48.5), (50, 3, 70, 9), (63, 0, 65, 48), (-10, -1, 30, 20)])
def test_a_box_that_reaches_over_the_border_is_clipped(box: tuple[float, ...]) -> None:
    (region,) = read(flaw(box=box)).regions
    assert region.box == clip_box(box, SIZE)


def failing() -> Iterator[Region]:
    yield REGION
    yield Region(mask=None, box=(5, 5, 5, 9), name="nothing", category=Category.COLOR)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, r"got None: return \[\]"),
    "a text": (lambda: "clean", "got str 'clean'"),
    "bytes": (lambda: b"clean", "got bytes"),
    "a number": (lambda: 0, "got int 0"),
    "truth": (lambda: False, "got bool False"),
    "a flaw outside a list": (lambda: flaw(box=BOX)[0], "got dict"),
    "an image": (lambda: IMAGE, "list of flaws"),
    "a mask outside a dict": (lambda: MASK, r"got ndarray of shape \(64,\)"),
    "a list of numbers": (lambda: [1, 2], "Region or a dict, got int 1"),
    "a list of None": (lambda: [None], "Region or a dict, got None"),
    "an analysis of another size": (
        lambda: Analysis(size=Size(64, 48), detector="mine"),
        r"Size\(height=64, width=48\) for an image of Size\(height=48",
    ),
    "an analysis of no size": (lambda: Analysis(size=7, detector="mine"), "size must be"),  # type: ignore[arg-type]
    "an analysis of dicts": (
        lambda: Analysis(size=SIZE, regions=flaw(), detector="mine"),  # type: ignore[arg-type]
        "regions must be Regions, got {'name'",
    ),
    "a region of another size": (lambda: [replace(REGION, mask=MASK.T, box=(0, 0, 1, 1))], "image's shape"),
    "a region that fails later": (failing, "Region.box must be"),
    "an unknown category": (lambda: flaw(category="anatmy"), "the nearest is 'anatomy'"),
    "no category at all": (lambda: flaw(category=3), "must be one of anatomy, shape"),
    "a region's category": (lambda: [replace(REGION, category="texxt")], "the nearest is 'text'"),
    "an unknown key": (lambda: flaw(catgory="text"), "not 'catgory': write 'category'"),
    "a strange key": (lambda: flaw(zzz=1), "not 'zzz': leave it out"),
    "no name": (lambda: [{"box": BOX}], "must have a name"),
    "a blank name": (lambda: [{"name": " ", "box": BOX}], "must have a name"),
    "a name that is no text": (lambda: [{"name": 7}], "name of a flaw must be a text, got int 7"),
    "a severity above 1": (lambda: flaw(severity=3), r"severity must lie in \[0, 1\], got 3.0"),
    "a severity in words": (lambda: flaw(severity="high"), "severity of a flaw must be a number"),
    "a score that is NaN": (lambda: flaw(score=float("nan")), r"score must lie in \[0, 1\], got nan"),
    "a box outside": (lambda: flaw(box=(70, 3, 90, 9)), "inside the image of 64x48 pixels"),
    "a box more outside than inside": (lambda: flaw(box=(40, 3, 90, 9)), "inside the image of 64x48 pixels"),
    "a box the wrong way": (lambda: flaw(box=(30, 3, 10, 9)), "inside the image"),
    "a box without pixels": (lambda: flaw(box=(30, 3, 30, 9)), "inside the image"),
    "a box of shares": (lambda: flaw(box=(0.1, 0.2, 0.5, 0.6)), "must be in pixels"),
    "a box of NaN": (lambda: flaw(box=(float("nan"),) * 4), "four numbers"),
    "a box of three": (lambda: flaw(box=(1, 2, 3)), "four numbers"),
    "a box of texts": (lambda: flaw(box="1 2 3 4"), "four numbers"),
    "a box without a side": (lambda: flaw(box={"xmin": 1, "ymin": 2, "xmax": 3}), "four numbers"),
    "a mask of another shape": (lambda: flaw(mask=MASK.T), r"shape \(48, 64\), got bool of shape \(64, 48\)"),
    "a mask of shares": (lambda: flaw(mask=MASK * 0.5), "compare it with a threshold"),
    "a mask of NaN": (lambda: flaw(mask=MASK * np.nan), "compare it with a threshold"),
    "a mask of 0, 1 and 255": (lambda: flaw(mask=MASK.astype(int) + 254 * (np.arange(64) < 10) * MASK), "threshold"),
    "a ragged mask": (lambda: flaw(mask=[[1], [1, 2]]), "must be bool"),
    "a claim outside": (lambda: [Claim(name="a", box=(0, 0, 99, 99))], "inside the image"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_answer_is_told_with_the_name_of_the_detector(answer: Callable[[], Any], said: str) -> None:
    def mine(image: Image.Image) -> Any:
        return answer()

    detector = as_detector(mine)
    for ask in (lambda: detector(IMAGE), lambda: detector.batch([IMAGE], ["a spot"])):
        with pytest.raises(BadAnswerError, match=said) as raised:
            ask()
        assert str(raised.value).startswith("The answer of the detector mine cannot be used. ")


@dataclass
class Complete:
    """A detector or judge that lacks nothing and returns what it was given."""

    answer: Any
    name: str = "mine"

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Any:
        return self.answer

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> Any:
        return self.answer

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        return self.answer


@pytest.mark.parametrize("answer", [None, "x", 3, [], [None], ["clean"], [[], []], [flaw(category="anatmy")]])
def test_a_complete_detector_is_checked_too(answer: Any) -> None:
    detector = Complete(answer)
    assert as_detector(detector) is detector  # type: ignore[comparison-overlap]
    with pytest.raises(BadAnswerError, match="The answer of the detector mine cannot be used"):
        analyses(detector, [IMAGE])


def test_a_complete_detector_may_answer_as_plainly() -> None:
    first, second = analyses(Complete([flaw(box=BOX), []]), [IMAGE, IMAGE])
    assert (first.regions[0].box, second.regions) == (BOX, ())


SCORES = [1.0, 0.5]


@pytest.mark.parametrize(
    "answer",
    [SCORES, (1, np.float16(0.5)), np.asarray(SCORES), torch.tensor(SCORES), torch.tensor([SCORES]).T, iter(SCORES)],
)
def test_scores_are_numbers_of_any_kind(answer: Any) -> None:
    found = scores(Complete(answer), [IMAGE] * 2, ["", ""])
    assert found == SCORES
    assert all(type(score) is float for score in found)


@pytest.mark.parametrize(
    "answer", [None, 0.5, "ab", [], [1], [1, 2, 3], [1, None], [1, "2"], [1, np.nan], [1, np.inf], np.ones((2, 2))]
)
def test_wrong_scores_are_told_with_the_name_of_the_judge(answer: Any) -> None:
    with pytest.raises(BadAnswerError, match=r"^The judge mine returned .* instead of 2 finite scores: check"):
        scores(Complete(answer), [IMAGE] * 2, ["", ""])


class Scripted(NamedTuple):
    """The opinion of a judge."""

    score: Any
    error: RefinerError | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Taster:
    """A judge that fails on some prompts, and keeps what it was asked."""

    fails: str
    asked: list[tuple[str, ...]] = field(default_factory=list)
    name: str = "mine"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        self.asked.append(tuple(prompts))
        if self.fails in prompts:
            raise ModelError("no answer")
        return [float(len(prompt)) for prompt in prompts]


class Streamer(Taster):
    """The same with an opinion for each image."""

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Iterator[Scripted]:
        self.asked.append(tuple(prompts))
        for prompt in prompts:
            failed = prompt == self.fails
            yield Scripted(None, ModelError("no answer")) if failed else Scripted(np.float32(len(prompt)))


PROMPTS = ["a", "bb", "ccc"]


@pytest.mark.parametrize("kind", [Taster, Streamer])
@pytest.mark.parametrize("fails", ["", *PROMPTS])
def test_a_score_that_fails_is_that_of_its_image_alone(kind: type[Taster], fails: str) -> None:
    judge = kind(fails)
    found = score_outcomes(judge, [IMAGE] * 3, PROMPTS)
    assert [str(each) if isinstance(each, ModelError) else each for each in found] == [
        "no answer" if prompt == fails else float(len(prompt)) for prompt in PROMPTS
    ]
    once = kind is Streamer or not fails
    assert judge.asked == [tuple(PROMPTS), *([] if once else [(prompt,) for prompt in PROMPTS])]


@pytest.mark.parametrize("score", [None, math.nan, math.inf, "1"])
def test_an_opinion_without_a_finite_score_is_an_error_of_its_image(score: Any) -> None:
    class Babbler(Taster):
        def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scripted]:
            return [Scripted(1.0), Scripted(score)]

    first, second = score_outcomes(Babbler(""), [IMAGE] * 2, PROMPTS[:2])
    assert first == 1.0
    assert isinstance(second, BadAnswerError)
    assert "The judge mine returned" in str(second)
    with pytest.raises(BadAnswerError, match="instead of 3 finite scores"):
        score_outcomes(Babbler(""), [IMAGE] * 3, PROMPTS)
