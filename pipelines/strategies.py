"""What to do about the flaws of a picture: repaint them in place, or paint the whole picture anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from refiner.masks import dilate, iou, union
from refiner.pipelines.config import RefineConfig
from refiner.taxonomy import Category
from refiner.types import Analysis, Mask, Region, Size

Step = Literal["regenerate", "inpaint"]

GLOBAL_CATEGORIES = frozenset({Category.OPTICS, Category.PERSPECTIVE})
"""Flaws that concern the whole scene unless they are small."""
SAME_PATCH = 0.5
"""Regions that, once grown, share at least this part of the smaller one are painted as one."""
SAME_PLACE = 0.5
"""Masks with at least this intersection over union count as one place in two rounds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """An area to repaint as one."""

    mask: Mask
    """Bool (H, W): the flawed regions, grown; disjoint from other patches."""
    region: Region
    """The worst of the flaws inside."""
    tries: int = 0
    """How often repainting here has failed so far."""


def choose(
    analysis: Analysis | None, config: RefineConfig, *, given: bool, repainted_in_vain: bool = False
) -> tuple[Step, ...]:
    """The steps of the next round; none where nothing can be done.

    Local flaws are repainted, others call for a new picture, a mixture for both in this order; so do local ones after
    a round in which repainting them was no help. A picture that the user gave is only ever repainted, unless
    ``strategy`` says otherwise. One that could not be analysed can only be painted anew.
    """
    if analysis is None:
        return () if given or config.strategy == "inpaint" else ("regenerate",)
    if config.strategy != "auto":
        return (config.strategy,)
    local = sum(is_local(region, analysis.size, config) for region in analysis.regions)
    if given:
        return ("inpaint",)
    if local == len(analysis.regions):
        return ("regenerate",) if repainted_in_vain else ("inpaint",)
    return ("regenerate", "inpaint") if local else ("regenerate",)


def is_local(region: Region, size: Size, config: RefineConfig) -> bool:
    """Whether a flaw can be mended without touching the rest of the picture."""
    limit = config.global_share if region.category in GLOBAL_CATEGORIES else config.large_share
    return bool(region.pixels(size).mean() <= limit)


def plan_patches(
    regions: Sequence[Region], size: Size, config: RefineConfig, failed: Sequence[Mask] = ()
) -> list[Patch]:
    """Grow the regions, join those that then mostly overlap, and keep the worst ``config.max_regions`` areas.

    Where the overlap is small, the pixels go to the worse flaw. The patches are disjoint, so that they can be painted
    independently and in any order. ``failed`` holds the masks of earlier patches that did not get better.
    """
    patches: list[Patch] = []
    for region in sorted(regions, key=_burden, reverse=True):
        mask = dilate(_area(region, size), config.dilate * max(size))
        free = mask & ~union((patch.mask for patch in patches), size)
        overlaps = [_overlap(patch.mask, mask) for patch in patches]
        most = max(overlaps, default=0.0)
        if most >= SAME_PATCH:
            host = overlaps.index(most)
            patches[host] = replace(patches[host], mask=patches[host].mask | free)
        elif free.any():
            patches.append(Patch(mask=free, region=region))
    return [replace(patch, tries=_tries(patch.mask, failed)) for patch in patches[: config.max_regions]]


def _overlap(first: Mask, second: Mask) -> float:
    """The share of the smaller mask that lies in the other."""
    return float((first & second).sum() / min(first.sum(), second.sum()))


def _tries(mask: Mask, failed: Sequence[Mask]) -> int:
    return sum(iou(mask, other) >= SAME_PLACE for other in failed)


def _burden(region: Region) -> float:
    return region.severity * region.score


def _area(region: Region, size: Size) -> Mask:
    pixels = region.pixels(size)
    return pixels if pixels.any() else replace(region, mask=None).pixels(size)
