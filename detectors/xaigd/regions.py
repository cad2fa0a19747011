"""Regions of an X-AIGD detector, from masks of the seven categories or from a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.claims import region_of
from refiner.detectors.xaigd.config import CATEGORIES, XaigdConfig
from refiner.masks import components
from refiner.taxonomy import FROM_XAIGD, Category, XaigdCategory
from refiner.types import Claim, Region, Size

Floats = NDArray[np.float32]

WHOLE: Final = "the whole image"
"""Name of the unplaced region of an image that is called generated and has no other region."""
SUSPECT: Final = "what the verdict looks at"
"""Name of a region from the heat map."""
_SEVERITIES: Final = ((0.01, 0.5), (0.04, 0.7), (1.0, 0.9))
"""(share of the image, severity): a region gets the severity of the first row whose share it does not exceed."""


class Words(NamedTuple):
    """A category in plain words."""

    name: str
    explanation: str
    reasoning: str


WORDS: Final[Mapping[XaigdCategory, Words]] = {
    XaigdCategory.EDGE_SHAPE: Words(
        "broken edges", "edges or outlines are broken, melted or jagged", "the outline of a real thing is whole"
    ),
    XaigdCategory.TEXTURE: Words(
        "an unnatural texture", "the surface has an unnatural pattern, noise or blur", "a surface shows its material"
    ),
    XaigdCategory.COLOR: Words(
        "an unnatural colour", "a colour is wrong or runs over an edge", "colours fit the thing and end at its edge"
    ),
    XaigdCategory.SYMBOL: Words(
        "garbled symbols", "letters, digits or signs are garbled or missing", "writing has letters that exist"
    ),
    XaigdCategory.SEMANTICS: Words(
        "a malformed thing", "parts are missing, added or in a wrong place", "a thing has all its parts in their place"
    ),
    XaigdCategory.COMMONSENSE: Words(
        "something that cannot be", "this contradicts common sense", "such things do not occur together"
    ),
    XaigdCategory.PHYSICS: Words(
        "an impossible scene", "light, shadow, support or size contradict physics", "real scenes obey physics"
    ),
}  # fmt: skip
_OF_HEAT: Final = Words(
    SUSPECT, 'the verdict "generated" rests on this place', "the detector does not say what is wrong there"
)


def artifact_regions(maps: Floats, config: XaigdConfig, size: Size) -> tuple[Region, ...]:
    """Connected parts of each category, largest first in each.

    Args:
        maps: probabilities, float (7, H, W), in the order of ``CATEGORIES``.
        config: of the detector.
        size: of the image.
    """
    found = []
    for category, heat in zip(CATEGORIES, maps, strict=True):
        found += list(_parts(heat, heat >= config.artifact_threshold, WORDS[category], FROM_XAIGD[category], config))
    return tuple(region_of(claim, mask, size) for claim, mask in found)


def heat_regions(heat: Floats, config: XaigdConfig, size: Size) -> tuple[Region, ...]:
    """Connected parts of a heat map, float (H, W), above its threshold, largest first. Their category is a stand-in."""
    parts = _parts(heat, heat > config.heat_threshold, _OF_HEAT, Category.TEXTURE, config)
    return tuple(region_of(claim, mask, size) for claim, mask in parts)


def whole_image(score: float, size: Size) -> Region:
    """The unplaced region of an image that is called generated and has no other region."""
    words = "the image looks generated, but no place shows why"
    return region_of(Claim(name=WHOLE, explanation=words, category=Category.TEXTURE, score=score), None, size)


def _parts(
    heat: Floats, mask: NDArray[np.bool_], words: Words, category: Category, config: XaigdConfig
) -> Iterator[tuple[Claim, NDArray[np.bool_]]]:
    if not mask.any():
        return
    for part in components(mask):
        share = float(part.mean())
        if share < config.least_share:
            return
        claim = Claim(
            name=words.name,
            explanation=words.explanation,
            reasoning=words.reasoning,
            category=category,
            severity=next(severity for most, severity in _SEVERITIES if share <= most),
            score=min(1.0, float(heat[part].mean())),
        )
        yield claim, part
