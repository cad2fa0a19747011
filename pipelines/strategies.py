"""How to fix the flaws of an image: inpaint them, or regenerate the whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from refiner.masks import box_of, dilate, iou
from refiner.pipelines.config import RefineConfig
from refiner.taxonomy import Category
from refiner.types import Analysis, Mask, Region, Size

Step = Literal["regenerate", "inpaint"]

GLOBAL_CATEGORIES = frozenset({Category.OPTICS, Category.PERSPECTIVE})
"""Categories of flaws that concern the whole scene unless they are small."""
SAME_PLACE = 0.5
"""Masks of two rounds with at least this intersection over union count as the same place."""
_STRENGTH_STEP = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """An area that is inpainted as one."""

    mask: Mask
    """Bool (H, W): the flawed regions after dilation; it does not overlap other patches."""
    region: Region
    """The first of its flaws by ``RefineConfig.order``."""
    tries: int = 0
    """How often inpainting has failed here so far."""


def choose(
    analysis: Analysis | None, config: RefineConfig, *, given: bool, repainted_in_vain: bool = False
) -> tuple[Step, ...]:
    """Choose the steps of the next round; empty if nothing can be done.

    With strategy "auto", an image of the user is only inpainted. Flaws without a place are only ever fixed by a new
    image, and not at all in an image of the user. Otherwise:

    - If all flaws are local, they are inpainted. If inpainting was the last action and has not fixed anything so far,
      this is followed by regenerating the image, unless the inpainting now helps.
    - If some flaws are local and others are not, the image is regenerated. Then the local flaws of the best image are
      inpainted in the same round.
    - If no flaw is local, the image is regenerated.

    Args:
        analysis: of the best image so far; None: it could not be analysed, so it cannot be inpainted.
        config: settings of the run.
        given: whether the run started from an image of the user.
        repainted_in_vain: whether inpainting was the last action and none was ever accepted.
    """
    if analysis is None:
        return () if given or config.strategy == "inpaint" else ("regenerate",)
    if given and not any(region.placed for region in analysis.regions):
        return ()
    if config.strategy != "auto":
        return (config.strategy,)
    if given:
        return ("inpaint",)
    local = sum(is_local(region, analysis.size, config) for region in analysis.regions)
    if local == len(analysis.regions):
        return ("inpaint", "regenerate") if repainted_in_vain else ("inpaint",)
    return ("regenerate", "inpaint") if local else ("regenerate",)


def is_local(region: Region, size: Size, config: RefineConfig) -> bool:
    """Whether a flaw has a place that is small enough to be fixed without changing the rest of the image."""
    limit = config.global_share if region.category in GLOBAL_CATEGORIES else config.large_share
    return region.placed and bool(region.pixels(size).mean() <= limit)


def repaintable(regions: Sequence[Region], size: Size, config: RefineConfig) -> list[Region]:
    """Select the flaws that have a place and are neither too small nor too large to be inpainted."""
    return [
        region
        for region in regions
        if region.placed and config.min_area <= region.pixels(size).mean() <= config.max_area
    ]


def ordered(regions: Sequence[Region], size: Size, config: RefineConfig) -> list[Region]:
    """Sort regions, which must have a place, by ``config.order``."""

    def place(region: Region) -> float:
        if config.order == "detected":
            return 0.0
        assert region.box is not None
        x0, y0, x1, y1 = region.box
        if config.order == "largest":
            return -int(np.count_nonzero(region.pixels(size)))
        if config.order == "left_to_right":
            return x0 + x1
        if config.order == "centre":
            return float(np.hypot(x0 + x1 - size.width, y0 + y1 - size.height))
        return -region.severity * region.score

    return sorted(regions, key=place)


def plan_patches(
    regions: Sequence[Region], size: Size, config: RefineConfig, failed: Sequence[Mask] = ()
) -> list[Patch]:
    """Dilate the regions, merge those that then mostly overlap, and keep the first ``config.max_regions`` patches.

    If regions overlap only a little, the shared pixels belong to the region that comes first by ``config.order``. The
    patches do not overlap, so they can be inpainted independently and in any order. ``failed`` has the masks of earlier
    patches that did not become better, one for each try. With ``keep="last"``, each region is a patch of its own.
    """
    if config.keep == "last":
        chosen = ordered(regions, size, config)[: config.max_regions]
        return [Patch(mask=grown(region, size, config), region=region) for region in chosen]
    patches: list[Patch] = []
    taken = np.zeros(tuple(size), dtype=np.bool_)
    for region in ordered(regions, size, config):
        mask = grown(region, size, config)
        free = mask & ~taken
        overlaps = [_overlap(patch.mask, mask) for patch in patches]
        most = max(overlaps, default=0.0)
        if most >= config.merge_overlap and most > 0:
            host = overlaps.index(most)
            patches[host] = replace(patches[host], mask=patches[host].mask | free)
        elif free.any():
            patches.append(Patch(mask=free, region=region))
        taken |= free
    return [
        replace(patch, tries=sum(iou(patch.mask, other) >= SAME_PLACE for other in failed))
        for patch in patches[: config.max_regions]
    ]


def strength_of(patch: Patch, config: RefineConfig, tries: int) -> float:
    """Compute the inpainting strength (share of the noise schedule) for a patch.

    With ``severity_strength`` and ``area_strength`` it is larger for more severe flaws and for smaller patches. It is
    then rounded to a multiple of 0.05, so that similar patches still go through the model in one batch.
    """
    strength = config.strength(tries)
    if not config.severity_strength and not config.area_strength:
        return strength
    strength *= 1 - config.severity_strength * (1 - patch.region.severity)
    strength *= (1 - float(patch.mask.mean())) ** config.area_strength
    return max(_STRENGTH_STEP, round(round(strength / _STRENGTH_STEP) * _STRENGTH_STEP, 2))


def grown(region: Region, size: Size, config: RefineConfig) -> Mask:
    """Return the dilated mask of a region; only the part of the image that it can reach is computed."""
    mask = region.pixels(size)
    if not mask.any():
        mask = replace(region, mask=None).pixels(size)
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
    return grown


def _overlap(first: Mask, second: Mask) -> float:
    """Compute the share of the smaller mask that overlaps the other."""
    return np.count_nonzero(first & second) / min(np.count_nonzero(first), np.count_nonzero(second))
