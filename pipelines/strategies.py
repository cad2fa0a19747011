"""What to do about the flaws of a picture: repaint them in place, or paint the whole picture anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from refiner.masks import box_of, dilate, iou
from refiner.pipelines.config import RefineConfig
from refiner.taxonomy import Category
from refiner.types import Analysis, Box, Mask, Region, Size

Step = Literal["regenerate", "inpaint"]

GLOBAL_CATEGORIES = frozenset({Category.OPTICS, Category.PERSPECTIVE})
"""Flaws that concern the whole scene unless they are small."""
SAME_PLACE = 0.5
"""Masks with at least this intersection over union count as one place in two rounds."""
_STRENGTH_STEP = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """An area to repaint as one."""

    mask: Mask
    """Bool (H, W): the flawed regions, grown; disjoint from other patches."""
    region: Region
    """The first, by ``RefineConfig.order``, of the flaws inside."""
    tries: int = 0
    """How often repainting here has failed so far."""


def choose(
    analysis: Analysis | None, config: RefineConfig, *, given: bool, repainted_in_vain: bool = False
) -> tuple[Step, ...]:
    """The steps of the next round; none where nothing can be done.

    Local flaws are repainted, others call for a new picture, a mixture for both in this order. Where repainting has
    mended nothing so far, it is tried once more, and a new picture only if that is in vain too. A picture that the user
    gave is only ever repainted, unless ``strategy`` says otherwise. One that could not be analysed can only be painted
    anew.
    """
    if analysis is None:
        return () if given or config.strategy == "inpaint" else ("regenerate",)
    if config.strategy != "auto":
        return (config.strategy,)
    local = sum(is_local(region, analysis.size, config) for region in analysis.regions)
    if given:
        return ("inpaint",)
    if local == len(analysis.regions):
        return ("inpaint", "regenerate") if repainted_in_vain else ("inpaint",)
    return ("regenerate", "inpaint") if local else ("regenerate",)


def is_local(region: Region, size: Size, config: RefineConfig) -> bool:
    """Whether a flaw can be mended without touching the rest of the picture."""
    limit = config.global_share if region.category in GLOBAL_CATEGORIES else config.large_share
    return bool(region.pixels(size).mean() <= limit)


def repaintable(regions: Sequence[Region], size: Size, config: RefineConfig) -> list[Region]:
    """The flaws that are neither too small nor too large to be repainted in place."""
    return [region for region in regions if config.min_area <= region.pixels(size).mean() <= config.max_area]


def plan_patches(
    regions: Sequence[Region], size: Size, config: RefineConfig, failed: Sequence[Mask] = ()
) -> list[Patch]:
    """Grow the regions, join those that then mostly overlap, and keep the first ``config.max_regions`` areas.

    Where the overlap is small, the pixels go to the flaw that comes first by ``config.order``. The patches are
    disjoint, so that they can be painted independently and in any order. ``failed`` holds the masks of earlier patches
    that did not get better.
    """
    patches: list[Patch] = []
    boxes: list[Box] = []
    taken = np.zeros(tuple(size), dtype=np.bool_)
    for region in _ordered(regions, size, config):
        mask, box = _grown(region, size, config)
        free = mask & ~taken
        overlaps = [_overlap(patch.mask, own, mask, box) for patch, own in zip(patches, boxes, strict=True)]
        most = max(overlaps, default=0.0)
        if most >= config.merge_overlap and most > 0:
            host = overlaps.index(most)
            patches[host] = replace(patches[host], mask=patches[host].mask | free)
            boxes[host] = _around(boxes[host], box)
        elif free.any():
            patches.append(Patch(mask=free, region=region))
            boxes.append(box)
        taken |= free
    return [replace(patch, tries=_tries(patch.mask, failed)) for patch in patches[: config.max_regions]]


def strength_of(patch: Patch, config: RefineConfig, tries: int) -> float:
    """The share of the noise schedule for a patch: the worse and the smaller its flaw, the more.

    In steps of 0.05 where it depends on the patch, so that alike patches still go through the model in one batch.
    """
    strength = config.strength(tries)
    if not config.severity_strength and not config.area_strength:
        return strength
    strength *= 1 - config.severity_strength * (1 - patch.region.severity)
    strength *= (1 - float(patch.mask.mean())) ** config.area_strength
    return max(_STRENGTH_STEP, round(round(strength / _STRENGTH_STEP) * _STRENGTH_STEP, 2))


def _ordered(regions: Sequence[Region], size: Size, config: RefineConfig) -> list[Region]:
    def from_middle(region: Region) -> float:
        x0, y0, x1, y1 = region.box
        return float(np.hypot(x0 + x1 - size.width, y0 + y1 - size.height))

    if config.order == "largest":
        return sorted(regions, key=lambda region: np.count_nonzero(region.pixels(size)), reverse=True)
    if config.order == "left_to_right":
        return sorted(regions, key=lambda region: region.box[0] + region.box[2])
    if config.order == "centre":
        return sorted(regions, key=from_middle)
    return sorted(regions, key=_burden, reverse=True)


def _grown(region: Region, size: Size, config: RefineConfig) -> tuple[Mask, Box]:
    """What a region covers once it is grown, and a box around that."""
    mask = _area(region, size)
    if config.fill_holes:
        from scipy import ndimage

        mask = ndimage.binary_fill_holes(mask)
    box = box_of(mask)
    assert box is not None
    pixels = config.dilate * max(size)
    reach = math.ceil(pixels)
    x0, y0 = max(0, box[0] - reach), max(0, box[1] - reach)
    x1, y1 = min(size.width, box[2] + reach), min(size.height, box[3] + reach)
    grown = np.zeros(tuple(size), dtype=np.bool_)
    grown[y0:y1, x0:x1] = dilate(mask[y0:y1, x0:x1], pixels)
    return grown, (x0, y0, x1, y1)


def _overlap(first: Mask, first_box: Box, second: Mask, second_box: Box) -> float:
    """The share of the smaller mask that lies in the other."""
    x0, y0 = max(first_box[0], second_box[0]), max(first_box[1], second_box[1])
    x1, y1 = min(first_box[2], second_box[2]), min(first_box[3], second_box[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    shared = np.count_nonzero(first[y0:y1, x0:x1] & second[y0:y1, x0:x1])
    return shared / min(np.count_nonzero(first), np.count_nonzero(second))


def _around(first: Box, second: Box) -> Box:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )


def _tries(mask: Mask, failed: Sequence[Mask]) -> int:
    return sum(iou(mask, other) >= SAME_PLACE for other in failed)


def _burden(region: Region) -> float:
    return region.severity * region.score


def _area(region: Region, size: Size) -> Mask:
    pixels = region.pixels(size)
    return pixels if pixels.any() else replace(region, mask=None).pixels(size)
