"""Candidates: claims about an image, each to be judged by people."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.data.samples import UNNAMED, Sample
from refiner.data.writing.entries import SMALLEST_PART
from refiner.errors import InputError
from refiner.masks import box_of, components
from refiner.records import picture_digest
from refiner.types import Analysis, Claim, Mask, Region, Size


class Flaw(NamedTuple):
    """A claim with its place; without a box in the claim, its place is not known."""

    claim: Claim
    mask: Mask | None = None
    """Bool (H, W); None if only the box is known, or neither."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One claim about one image."""

    id: str
    """32 hexadecimal digits, from the pixels of the image and from what is claimed. Severity, score and detector do not
    change it, so that it says nothing about them, and equal claims of two detectors are one candidate."""
    number: int
    """In its image, from 1."""
    flaw: Flaw


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """One image, and what is claimed about it."""

    name: str
    """Of the image."""
    group: str = ""
    """Its part of the data set, such as the generator."""
    fake: bool | None = None
    """Whether it is generated, by its label; None if unknown."""
    size: Size
    """Of the image, by the claims."""
    flaws: tuple[Flaw, ...]
    detector: str
    """Who claims it."""
    read: Callable[[], Image.Image]
    """Reads the image, RGB. It raises an ``InputError`` if the image cannot be read."""
    picture: str | None = None
    """``picture_digest`` of the image that the claims are about; None if it was not recorded."""

    @functools.cached_property
    def image(self) -> Image.Image:
        """The image, RGB.

        Raises:
            InputError: it cannot be read, or is not the one that the claims are about.
        """
        image = self.read()
        changed = self.picture is not None and picture_digest(image) != self.picture
        if changed or Size(image.height, image.width) != self.size:
            raise InputError(f"The image {self.name!r} has changed since it was analysed: analyse it again.")
        return image

    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates, in the order of the claims; of equal claims only the first one.

        Raises:
            InputError: the image is needed for it, and cannot be used.
        """
        if not self.flaws:
            return ()
        picture = self.picture or picture_digest(self.image)
        found: dict[str, Candidate] = {}
        for number, flaw in enumerate(self.flaws, start=1):
            id_ = _id_of(picture, flaw)
            found.setdefault(id_, Candidate(id=id_, number=number, flaw=flaw))
        return tuple(found.values())


def _id_of(picture: str, flaw: Flaw) -> str:
    claim, mask = flaw
    shape = None if mask is None else hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).hexdigest()
    category = None if claim.category is None else str(claim.category)
    texts = (claim.name, claim.location, claim.explanation, claim.reasoning)
    key = json.dumps([picture, *texts, category, claim.box, shape])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def flaws_of_analysis(analysis: Analysis) -> tuple[Flaw, ...]:
    """The regions of a detector's answer as flaws."""
    return tuple(Flaw(_claim(region), region.mask) for region in analysis.regions)


def flaws_of_sample(sample: Sample) -> tuple[Flaw, ...]:
    """The flaws of a sample's truth.

    A truth that joins its flaws in one mask has a flaw for each connected part of at least ``SMALLEST_PART`` of the
    image. Flaws that are only known in words have no place.
    """
    regions, words = sample.truth.regions if sample.truth else (), sample.anomalies or ()
    if sample.truth is not None and sample.itemised:
        claims = words if len(words) == len(regions) else (Claim(),) * len(regions)
        pairs = zip(regions, claims, strict=True)
        return tuple(Flaw(_joined(region, claim, sample.categorised), region.mask) for region, claim in pairs)
    parts = tuple(_parts(regions))
    if len(words) == 1 and parts:
        return tuple(part._replace(claim=replace(words[0], box=part.claim.box)) for part in parts)
    return (*parts, *map(Flaw, words))


def _claim(region: Region) -> Claim:
    return Claim(
        name=region.name,
        location=region.location,
        explanation=region.explanation,
        reasoning=region.reasoning,
        category=region.category,
        severity=region.severity,
        score=region.score,
        box=region.box,
    )


def _joined(region: Region, claim: Claim, categorised: bool) -> Claim:
    """What a data set says about a true region. A severity that only the region has is no more than its default."""
    return Claim(
        name=("" if region.name == UNNAMED else region.name) or claim.name,
        location=region.location or claim.location,
        explanation=region.explanation or claim.explanation,
        reasoning=region.reasoning or claim.reasoning,
        category=region.category if categorised else claim.category,
        severity=claim.severity,
        box=region.box,
    )


def _parts(regions: Iterable[Region]) -> Iterator[Flaw]:
    for region in regions:
        if region.mask is None:
            yield Flaw(Claim(box=region.box))
            continue
        for part in components(region.mask):
            if np.count_nonzero(part) >= SMALLEST_PART * part.size:
                yield Flaw(Claim(box=box_of(part)), part)
