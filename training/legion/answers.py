"""The answers that LEGION learns to give about the samples of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from refiner.data.samples import UNNAMED, Sample
from refiner.detectors.legion.grammar import CLEAN, compose
from refiner.errors import InputError
from refiner.masks import location_words
from refiner.types import Claim, Region, Size


class Taught(NamedTuple):
    """The right answer about one image."""

    text: str
    """In the grammar of ``refiner.detectors.legion.grammar``."""
    regions: tuple[Region, ...]
    """The region of each [SEG] token of the text, in order."""
    left_out: tuple[Region, ...] = ()
    """Regions without a [SEG] token: their phrase is not in the caption, or their place is not known."""


def answer_of(sample: Sample) -> Taught:
    """Write the answer about a sample.

    If the sample has a caption, its phrases (the names of the regions) are marked in it, as in LEGION's training: the
    phrase becomes ``<p> phrase </p> [SEG]``. If a phrase occurs several times, each region gets an occurrence of its
    own; LEGION's code gives all of them the first one. Without a caption, the answer is composed of the fields of the
    regions; a region without a name is called by its place. Misalignments with the prompt are left out.

    Raises:
        InputError: the sample does not say which flaws there are, or not in words.
    """
    if sample.truth is None:
        raise InputError(f"The sample {sample.name!r} has no regions to learn from: leave it out of the training data.")
    truth = sample.truth.perceptual
    regions = truth.regions
    if sample.caption:
        return _marked(sample.caption, regions)
    placed = tuple(region for region in regions if region.placed)
    if not placed and (regions or truth.tags):
        raise InputError(
            f"The sample {sample.name!r} has flaws whose places are not known, which LEGION learns to outline: leave "
            "it out of the training data."
        )
    if placed and not any(region.explanation for region in placed):
        raise InputError(
            f"The sample {sample.name!r} has regions without explanations, which LEGION learns to write: choose data "
            "with explanations or captions."
        )
    text = compose([_claim(region, truth.size) for region in placed]) if placed else CLEAN
    return Taught(text, placed, tuple(region for region in regions if not region.placed))


def _claim(region: Region, size: Size) -> Claim:
    assert region.box is not None
    texts = {name: getattr(region, name) for name in ("explanation", "reasoning")}
    place = region.location or location_words(region.box, size)
    name = "an area" if region.name == UNNAMED else region.name
    return Claim(name=name, location=place, **texts, category=region.category, severity=region.severity)


def _marked(caption: str, regions: Sequence[Region]) -> Taught:
    spans: list[tuple[int, int, Region]] = []
    left_out = []
    for region in regions:
        span = _free_span(region.name, caption, [span[:2] for span in spans]) if region.placed else None
        if span is None:
            left_out.append(region)
        else:
            spans.append((*span, region))
    spans.sort(key=lambda span: span[0])
    pieces, end = [], 0
    for start, stop, region in spans:
        pieces.append(f"{caption[end:start]}<p> {region.name} </p> [SEG]")
        end = stop
    return Taught("".join([*pieces, caption[end:]]), tuple(region for *_, region in spans), tuple(left_out))


def _free_span(phrase: str, caption: str, taken: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Find the first occurrence of a phrase that overlaps no taken span, at the start of a word if there is one."""
    if not phrase.strip():
        return None
    for pattern in (rf"(?<!\w){re.escape(phrase)}", re.escape(phrase)):
        for match in re.finditer(pattern, caption):
            if all(match.end() <= start or match.start() >= stop for start, stop in taken):
                return match.span()
    return None
