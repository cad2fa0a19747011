"""Exchanges of AnomAgent about drawn images whose flaws are known: from them the bundled model learns all five agents.

The questions are exactly those of the agent (``refiner.detectors.anomreason.requests``). An issue belongs to the
relations of a thing if its category is in ``OF_RELATIONS``, else to the thing itself. To verify and to integrate are
learnt from true issues and false ones, which other things of that kind may have.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.data.samples import Sample
from refiner.detectors.anomreason import requests
from refiner.detectors.anomreason.severity import score_of
from refiner.detectors.anomreason.work import ATTRIBUTES, RELATIONS, Issue, Thing
from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.vlm.questions import box_key, told_box
from refiner.errors import InputError
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import parse_caption, sample_scene
from refiner.records import derive_seed
from refiner.taxonomy import Category
from refiner.training.anomreason.words import FORM, LIKELY, UNLIKELY
from refiner.training.world.words import FRAME, NOTHING, VERDICTS
from refiner.types import Box, Region

OF_RELATIONS = frozenset({Category.OPTICS, Category.PHYSICAL_LAW, Category.PERSPECTIVE})
_DRAWS = 8  # examples of each kind of flaw, which have different parts
_FLAWED = 0.6  # of the questions about one thing: share that is about a flawed thing, if there is one
_TOLD = 0.9  # share of true issues that are claimed
_TWICE = 0.25  # of the issues to integrate: share that is claimed twice
_MOST_FALSE = 2  # false issues in a question


class Known(NamedTuple):
    """A true flaw in an image."""

    issue: Issue
    stage: str
    """The agent that should find it."""
    severity: float
    box: Box


class Study(NamedTuple):
    """An image of the micro world, and all that is true about it."""

    name: str
    image: Image.Image
    things: tuple[Thing, ...]
    flaws: tuple[Known, ...]

    def of(self, thing: Thing) -> list[Known]:
        """The flaws of a thing."""
        return [flaw for flaw in self.flaws if flaw.issue.thing == thing.name]


class Exchange(NamedTuple):
    """A question, and the right answer."""

    question: ChatRequest
    answer: str


def study_of(sample: Sample) -> Study:
    """Everything about a drawn image, whose prompt is its true caption.

    Raises:
        InputError: it has no image, or a flaw without a box.
    """
    if sample.image is None or sample.truth is None:
        raise InputError(f"The sample {sample.name!r} has no image or no truth: leave it out.")
    drawn = parse_caption(sample.prompt).things
    things = tuple(Thing(f"the {thing.colour} {thing.kind}", thing.phrase) for thing in drawn)
    flaws = tuple(_known(region, things) for region in sample.truth.regions)
    return Study(sample.name, sample.image, things, flaws)


def _known(region: Region, things: Sequence[Thing]) -> Known:
    if region.box is None:
        raise InputError(f"The flaw {region.name!r} has no box: leave its image out.")
    owner = next(thing.name for thing in things if region.name.endswith(thing.name.removeprefix("the ")))
    stage = RELATIONS if region.category in OF_RELATIONS else ATTRIBUTES
    return Known(_issue(region, owner, region.name), stage, region.severity, region.box)


def _issue(region: Region, owner: str, name: str) -> Issue:
    return Issue(thing=owner, name=name, phenomenon=region.explanation, reasoning=region.reasoning, score=LIKELY)


def exchange(study: Study, turn: int) -> Exchange:
    """One of the ``len(TURNS)`` exchanges about an image; it depends only on the image's name and ``turn``."""
    return TURNS[turn](study, np.random.default_rng(derive_seed("exchange", study.name, turn)))


def _perceiving(study: Study, rng: np.random.Generator) -> Exchange:
    answer = {"objects": [thing._asdict() for thing in study.things]}
    return Exchange(requests.perceiving(study.image, int(rng.integers(3))), json.dumps(answer))


def _chosen(study: Study, rng: np.random.Generator) -> Thing:
    flawed = [thing for thing in study.things if study.of(thing)]
    pool = flawed if flawed and rng.random() < _FLAWED else study.things
    return pool[int(rng.integers(len(pool)))]


def _identifying(study: Study, rng: np.random.Generator, stage: str) -> Exchange:
    thing = _chosen(study, rng)
    own = study.of(thing)
    findings = [flaw.issue for flaw in own if flaw.stage == ATTRIBUTES] if stage == RELATIONS else []
    others = [other for other in study.things if other != thing]
    answer = {"issues": [_words(flaw.issue) for flaw in own if flaw.stage == stage]}
    return Exchange(requests.identifying(study.image, stage, thing, others, findings), json.dumps(answer))


def _attributes(study: Study, rng: np.random.Generator) -> Exchange:
    return _identifying(study, rng, ATTRIBUTES)


def _relations(study: Study, rng: np.random.Generator) -> Exchange:
    return _identifying(study, rng, RELATIONS)


def _verifying(study: Study, rng: np.random.Generator) -> Exchange:
    thing = _chosen(study, rng)
    own = study.of(thing)
    claims = [(flaw.issue, True) for flaw in own if rng.random() < _TOLD]
    claims += [(issue, False) for issue in _untrue(thing, own, rng, int(rng.integers(not claims, _MOST_FALSE + 1)))]
    claims = [claims[place] for place in rng.permutation(len(claims))]
    verdicts = [
        {
            "item": number,
            "evidence": issue.phenomenon if true else NOTHING,
            "verdict": VERDICTS[not true],
            "probability_of_flaw": LIKELY if true else UNLIKELY,
        }
        for number, (issue, true) in enumerate(claims, start=1)
    ]
    question = requests.verifying(study.image, thing, [issue for issue, _ in claims])
    return Exchange(question, json.dumps({"verdicts": verdicts}))


def _integrating(study: Study, rng: np.random.Generator) -> Exchange:
    claims: list[Issue | None] = []  # None: a false one
    listed: list[Issue] = []
    for flaw in study.flaws:
        times = 1 + (rng.random() < _TWICE)
        claims += [flaw.issue] * times
        listed += [flaw.issue] * times
    thing = _chosen(study, rng)
    untrue = _untrue(thing, study.of(thing), rng, int(rng.integers(not claims, _MOST_FALSE)))
    order = rng.permutation(len(claims) + len(untrue))
    claims = [[*claims, *[None] * len(untrue)][place] for place in order]
    listed = [[*listed, *untrue][place] for place in order]
    kept = [
        {"items": [number for number, own in enumerate(claims, start=1) if own == issue], **_words(issue)}
        for issue in dict.fromkeys(claims) if issue is not None
    ]  # fmt: skip
    removed = [{"item": number, "reason": NOTHING} for number, own in enumerate(claims, start=1) if own is None]
    question = requests.integrating(study.image, listed)
    return Exchange(question, json.dumps({"kept": kept, "removed": removed}))


def _formatting(study: Study, rng: np.random.Generator) -> Exchange:
    if not study.flaws:
        return _perceiving(study, rng)
    flaws = [study.flaws[place] for place in rng.permutation(len(study.flaws))]
    entries = [
        {
            "item": number,
            **_words(flaw.issue),
            "severity_score": score_of(flaw.severity),
            box_key(FORM): told_box(flaw.box, FRAME, FORM, study.image),
        }
        for number, flaw in enumerate(flaws, start=1)
    ]
    question = requests.formatting(study.image, [flaw.issue for flaw in flaws], FORM)
    return Exchange(question, json.dumps({"anomalies": entries}))


def _words(issue: Issue) -> dict[str, str]:
    return {name: value for name, value in issue.told.items() if name != "object"}


def _untrue(thing: Thing, own: Sequence[Known], rng: np.random.Generator, count: int) -> list[Issue]:
    """Issues that a thing does not have, and that others of its kind may have."""
    colour, kind = thing.name.removeprefix("the ").split(" ")
    true = {flaw.issue.phenomenon for flaw in own}
    pool = [region for region in possible_flaws()[kind] if region.explanation not in true]
    chosen = rng.choice(len(pool), count, replace=False)
    parts = [(pool[place], pool[place].name.rpartition(" of the ")[0]) for place in chosen]
    return [_issue(region, thing.name, f"{part} of the {colour} {kind}") for region, part in parts]


@functools.cache
def possible_flaws() -> dict[str, tuple[Region, ...]]:
    """Flaws of each kind of thing, each explanation once."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, Region]] = {}
    for flaw in FLAWS.values():
        for kind in flaw.things:
            for _ in range(_DRAWS):
                while (scene := sample_scene(rng, 1)).things[0].kind != kind:
                    pass
                for region in inject(scene, rng, 1, [flaw.name]).regions:
                    found.setdefault(kind, {}).setdefault(region.explanation, region)
    return {kind: tuple(regions.values()) for kind, regions in found.items()}


TURNS: tuple[Callable[[Study, np.random.Generator], Exchange], ...] = (
    _perceiving, _attributes, _attributes, _attributes, _relations, _relations, _verifying, _verifying, _integrating,
    _formatting, _formatting,
)  # fmt: skip
"""The exchanges about one image. What is harder occurs more often."""
