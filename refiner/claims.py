"""Make a region of the image from a flaw in words; shared by all detectors and readers of answers."""

from __future__ import annotations

from refiner.masks import box_of, location_words
from refiner.taxonomy import Category
from refiner.types import Claim, Mask, Region, Size

DEFAULT_CATEGORY = Category.SHAPE
"""Category of a flaw for which the answer has none, or an unknown one."""
DEFAULT_SEVERITY = 0.6
"""Severity of a flaw for which the answer has none, or one that cannot be read."""


def region_of(claim: Claim, mask: Mask | None, size: Size) -> Region:
    """Make a region of an image of ``size`` from a claim, whose box is inside the image, and its mask, bool (H, W).

    The box is that of the mask, else that of the claim. Without both, the region is unplaced. If the claim has no
    location, the words are derived from the box; without a box, the location is empty. A missing category, severity or
    score becomes ``DEFAULT_CATEGORY``, ``DEFAULT_SEVERITY`` or 1.
    """
    place = (None if mask is None else box_of(mask)) or claim.box
    return Region(
        mask=None if place is None else mask,
        box=place,
        name=claim.name,
        location=claim.location or ("" if place is None else location_words(place, size)),
        explanation=claim.explanation,
        reasoning=claim.reasoning,
        category=claim.category or DEFAULT_CATEGORY,
        severity=DEFAULT_SEVERITY if claim.severity is None else claim.severity,
        score=1.0 if claim.score is None else claim.score,
    )
