"""From a flaw in words to a region of the image: what all detectors that read a model's text share."""

from __future__ import annotations

from refiner.detectors.reading.regions import DEFAULT_CATEGORY, DEFAULT_SEVERITY
from refiner.masks import box_of, location_words
from refiner.types import Claim, Mask, Region, Size


def region_of(claim: Claim, mask: Mask | None, size: Size) -> Region:
    """A claim and its mask as a region.

    The box is that of the mask, else the claim's own, else the whole image. A location that the claim does not tell is
    taken from the box, and stays empty where neither mask nor box tells it. A category, severity or score that it
    does not tell becomes ``DEFAULT_CATEGORY``, ``DEFAULT_SEVERITY`` or 1.

    Args:
        claim: its box, where it has one, lies inside the image.
        mask: bool (H, W) of ``size``; None where nothing drew one.
        size: of the image.
    """
    place = (None if mask is None else box_of(mask)) or claim.box
    return Region(
        mask=mask,
        box=place or (0, 0, size.width, size.height),
        name=claim.name,
        location=claim.location or ("" if place is None else location_words(place, size)),
        explanation=claim.explanation,
        reasoning=claim.reasoning,
        category=claim.category or DEFAULT_CATEGORY,
        severity=DEFAULT_SEVERITY if claim.severity is None else claim.severity,
        score=1.0 if claim.score is None else claim.score,
    )
