"""The user's own prompts for regions, regions to leave alone, and whose prompt a region gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.pipelines.region_prompts import fits
from refiner.pipelines.revisers.template import clause_of
from refiner.pipelines.saving.settings import config_from
from refiner.protocols import InpaintJob, PaintJob
from refiner.taxonomy import Category
from refiner.types import Analysis, Calls, RefinementResult, Region, Size

SIZE = Size(60, 80)
PROMPT = "a photo of a red hand left of a green clock, film grain"
NAMES = ("the left hand", "the clock", "a smiling face")
BOXES = {"the left hand": (4, 20, 24, 40), "the clock": (54, 20, 74, 40), "a smiling face": (30, 2, 46, 16)}
CATEGORIES = {"the left hand": Category.ANATOMY, "the clock": Category.TEXT, "a smiling face": Category.NOISE_BLUR}


def region(name: str, severity: float = 1.0) -> Region:
    return Region(mask=None, box=BOXES[name], name=name, category=CATEGORIES[name], severity=severity)


class Painter:
    """Generates grey images, and inpaints every mask in green."""

    def __init__(self) -> None:
        self.jobs: list[InpaintJob] = []

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        return [Image.new("RGB", (SIZE.width, SIZE.height), (128, 128, 128)) for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        return [Image.fromarray(np.where(job.mask[..., None], (0, 200, 0), job.image).astype(np.uint8)) for job in jobs]

    def spent(self) -> Calls:
        return Calls()


def unpainted(names: Sequence[str] = NAMES, fixable: Sequence[str] = NAMES) -> Callable[[Image.Image], Analysis]:
    """A detector for which a region is flawed until it is inpainted, if it is ``fixable``."""

    def look(image: Image.Image) -> Analysis:
        pixels = np.asarray(image)
        flawed = []
        for name in names:
            x0, y0, x1, y1 = BOXES[name]
            if name not in fixable or (pixels[(y0 + y1) // 2, (x0 + x1) // 2] == 128).all():
                flawed.append(region(name))
        return Analysis(size=SIZE, regions=tuple(flawed), detector="d")

    return look


def refined(
    look: Callable[[Image.Image], Analysis] | None = None, rounds: int = 1, **settings: object
) -> tuple[RefinementResult, dict[str, list[InpaintJob]]]:
    """The result of a run, and the inpainting jobs of each region."""
    painter = Painter()
    parts = Parts(
        generator=painter, inpainter=painter, detector=ScriptedDetector(look or unpainted()), reviser=TemplateReviser()
    )
    config = RefineConfig(max_rounds=rounds, strategy="inpaint", dilate=0.0, **settings)
    result = refine(parts, PROMPT, config).result
    jobs: dict[str, list[InpaintJob]] = {name: [] for name in NAMES}
    for job in painter.jobs:
        y, x = (int(np.flatnonzero(job.mask.any(axis=axis)).mean()) for axis in (1, 0))
        for name, (x0, y0, x1, y1) in BOXES.items():
            if x0 <= x < x1 and y0 <= y < y1:
                jobs[name].append(job)
    return result, jobs


def prompts_of(jobs: Mapping[str, Sequence[InpaintJob]]) -> list[str | None]:
    return [jobs[name][0].prompt if jobs[name] else None for name in NAMES]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hand", NAMES[:1]), ("Hands", NAMES[:1]), ("left hand", NAMES[:1]), ("hand left", NAMES[:1]), ("han", ()),
        ("right hand", ()), ("the", NAMES[:2]), ("anatomy", NAMES[:1]), ("noise_blur", NAMES[2:]),
        ("Noise blur", NAMES[2:]), ("noise", ()), ("faces", NAMES[2:]), ("text", NAMES[1:2]),
    ],
)  # fmt: skip
def test_a_name_fits_by_whole_words_or_by_the_category(name: str, wanted: tuple[str, ...]) -> None:
    assert tuple(each for each in NAMES if fits(name, region(each))) == wanted


@pytest.mark.parametrize(
    ("prompts", "wanted"),
    [
        ({"hand": "a fist", "FACE": "an old face"}, ["a fist", None, "an old face"]),
        ({"text": "a sign", "left hand": "left", "hand": "any"}, ["left", "a sign", None]),
        ({"anatomy": "[PROMPT], bare skin", "foot": "a foot"}, [f"{PROMPT}, bare skin", None, None]),
        ({"hand": ""}, [None, None, None]),
        ("one for all", ["one for all"] * 3),
        (["first", "second", "third", "fourth"], ["first", "third", "second"]),
        (("first", "rest"), ["first", "rest", "rest"]),
        ("first [SEP] [PROMPT] [SEP] third", ["first", "third", PROMPT]),
        ("first [SEP][SEP] third", ["first", "third", None]),
        ((), [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_a_region_gets_the_users_text_or_else_the_usual_prompt(prompts: object, wanted: list[str | None]) -> None:
    usual = [TemplateReviser().for_region(PROMPT, region(name)).prompt for name in NAMES]
    _, jobs = refined(prompts=prompts, order="left_to_right")
    assert prompts_of(jobs) == [text or default for text, default in zip(wanted, usual, strict=True)]


def test_the_users_text_comes_with_the_users_negative_prompt() -> None:
    _, jobs = refined(prompts={"hand": "a fist"}, negative_prompt="blurry")
    assert jobs["the left hand"][0].negative_prompt == "blurry"


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"prompts": {"hand": "[SKIP]"}}, ["the left hand"]),
        ({"prompts": "[SKIP] [SEP] a face"}, ["the left hand"]),
        ({"prompts": ["a", " [SKIP] "]}, ["the clock", "a smiling face"]),
        ({"prompts": "[SKIP]"}, list(NAMES)),
        ({"exclude": ["faces"]}, ["a smiling face"]),
        ({"exclude": ("anatomy", "clock")}, ["the left hand", "the clock"]),
        ({"exclude": ["the clock", "hand", "noise_blur"]}, list(NAMES)),
        ({"exclude": ["foot"]}, []),
    ],
)
@pytest.mark.parametrize("strategy", ["inpaint", "auto"])
def test_regions_to_leave_alone_keep_their_pixels_and_still_count(
    settings: dict[str, object], left: list[str], strategy: str
) -> None:
    result, jobs = refined(order="left_to_right", **settings)
    assert [name for name in NAMES if not jobs[name]] == left
    best = result.attempts[result.best].analysis
    assert best is not None
    assert [each.name for each in best.regions] == left
    assert best.burden == len(left)
    if len(left) == len(NAMES):
        assert (len(result.attempts), result.stop) == (1, "rounds")


def test_a_region_keeps_its_number_when_those_before_it_are_fixed() -> None:
    look = unpainted(fixable=["the left hand"])
    _, jobs = refined(look, rounds=3, prompts=["first", "second", "third"], order="left_to_right", min_score_gain=0)
    assert [sorted({job.prompt for job in jobs[name]}) for name in NAMES] == [["first"], ["third"], ["second"]]
    assert min(len(jobs[name]) for name in NAMES[1:]) > 1


@pytest.mark.parametrize("kind", ["auto", "clause", "whole"])
def test_the_kind_of_region_prompt(kind: str) -> None:
    _, jobs = refined(region_prompt=kind, negative_prompt="blurry")
    clauses = [clause_of(PROMPT, name) or PROMPT for name in NAMES]
    assert clauses == ["a photo of a red hand, film grain", "a photo of a green clock, film grain", PROMPT]
    usual = [TemplateReviser().for_region(PROMPT, region(name)).prompt for name in NAMES]
    assert prompts_of(jobs) == {"auto": usual, "clause": clauses, "whole": [PROMPT] * 3}[kind]
    assert all(job.negative_prompt == "blurry" for each in jobs.values() for job in each)


GOOD = [
    {"prompts": {"hand": "a fist", "face": "[SKIP]"}}, {"prompts": ["a", "b"]}, {"prompts": "a [SEP] b"},
    {"exclude": ["face", "noise_blur"]}, {"region_prompt": "clause"}, {"region_prompt": "whole", "together": True},
]  # fmt: skip


@pytest.mark.parametrize("settings", GOOD)
def test_the_settings_survive_json(settings: dict[str, object]) -> None:
    config = RefineConfig(**settings)
    assert config_from(json.loads(json.dumps(asdict(config)))) == config


def test_the_settings_are_not_changed_from_outside() -> None:
    prompts, exclude = {"hand": "a fist"}, ["face"]
    config = RefineConfig(prompts=prompts, exclude=exclude)
    prompts["hand"], exclude[0] = "a paw", "foot"
    assert config == RefineConfig(prompts={"hand": "a fist"}, exclude=("face",))


@pytest.mark.parametrize(
    "settings",
    [
        {"region_prompt": "part"}, {"prompts": 3}, {"prompts": {"hand": 3}}, {"prompts": {"": "x"}},
        {"prompts": {"--": "x"}}, {"prompts": [1]}, {"prompts": None}, {"prompts": {"hand": "a [SEP] b"}},
        {"prompts": ["a [SEP] b"]}, {"exclude": "face"}, {"exclude": [""]}, {"exclude": [3]}, {"exclude": None},
        {"together": True, "prompts": "x"}, {"together": True, "region_prompt": "clause"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"RefineConfig\.\w+ must be"):
        RefineConfig(**settings)
