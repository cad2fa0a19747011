"""Masks, boxes and words for places. Masks are bool (H, W), True = flawed; boxes are (x0, y0, x1, y1), half-open."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.types import Box, Mask, Size


class Rle(TypedDict):
    """Run lengths in COCO's uncompressed form: column-major, starting with a run (maybe of 0) of False."""

    size: list[int]
    """[H, W]."""
    counts: list[int]


def box_of(mask: Mask) -> Box | None:
    """The smallest box around the True pixels of a bool (H, W) mask; None where there are none."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def clip_box(box: Sequence[float], size: Size) -> Box | None:
    """Round a box outwards to whole pixels and cut it to the image; None where nothing of it is left."""
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ConfigError(f"A box must be four finite numbers (x0, y0, x1, y1), got {tuple(box)}.")
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(size.width, math.ceil(box[2])), min(size.height, math.ceil(box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def rle_encode(mask: Mask) -> Rle:
    """Run lengths of a bool (H, W) mask, ready for JSON; ``rle_decode`` gives the same mask back."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    counts = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}


def rle_decode(rle: Rle) -> Mask:
    """The bool (H, W) mask of run lengths made by ``rle_encode`` or by COCO's tools (uncompressed).

    Raises:
        ConfigError: the runs do not add up to the size.
    """
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], dtype=np.int64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ConfigError(f"Run lengths must add up to {height} x {width} pixels, got {int(counts.sum())}.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def union(masks: Iterable[Mask], size: Size) -> Mask:
    """Pixels that are True in any of the masks, bool (H, W) of ``size``."""
    joined = np.zeros(tuple(size), dtype=np.bool_)
    for mask in masks:
        joined |= mask
    return joined


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union, in [0, 1]; 1 where both masks are empty."""
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / either if either else 1.0


def dilate(mask: Mask, pixels: float) -> Mask:
    """All pixels within ``pixels`` (Euclidean, >= 0) of a True one."""
    if pixels <= 0 or not mask.any():
        return mask.copy()
    from scipy import ndimage

    near: Mask = ndimage.distance_transform_edt(~mask) <= pixels
    return near


def feather(mask: Mask, inner_pixels: float) -> NDArray[np.float32]:
    """Blending weights, float32 (H, W) in [0, 1]: 0 outside the mask, rising inwards to 1 over ``inner_pixels``.

    The image's own border is no edge: a mask that touches it stays at full weight there.
    """
    if inner_pixels <= 0 or mask.all():
        return mask.astype(np.float32)
    from scipy import ndimage

    weights = np.zeros(mask.shape, dtype=np.float32)
    if (box := box_of(mask)) is not None:
        x0, y0, x1, y1 = box
        near = slice(max(0, y0 - 1), y1 + 1), slice(max(0, x0 - 1), x1 + 1)  # nothing further away is nearest
        weights[near] = np.minimum(ndimage.distance_transform_edt(mask[near]) / (inner_pixels + 1), 1.0)
    return weights


def components(mask: Mask) -> list[Mask]:
    """The connected parts (8 neighbours) of a mask, largest first; ties in reading order."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == index + 1 for index in np.argsort(-areas, kind="stable")]


def location_words(box: Box, size: Size) -> str:
    """Which ninth of the image holds the middle of the box: "upper left", "left", "centre", "lower centre"."""
    x0, y0, x1, y1 = box
    across = ("left", "centre", "right")[min(2, int(3 * (x0 + x1) / 2 / size.width))]
    down = ("upper", "", "lower")[min(2, int(3 * (y0 + y1) / 2 / size.height))]
    return f"{down} {across}".strip()
