"""Masks, boxes and location words. Masks are bool (H, W), True = flawed; boxes are half-open (x0, y0, x1, y1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.types import Box, Mask, Size


class Rle(TypedDict):
    """Run lengths in COCO's uncompressed form: column-major; the first run counts False pixels and may be 0."""

    size: list[int]
    """[H, W]."""
    counts: list[int]


def box_of(mask: Mask) -> Box | None:
    """The smallest box around the True pixels of a bool (H, W) mask; None if there are none."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def clip_box(box: Sequence[float], size: Size) -> Box | None:
    """Round a box outwards to whole pixels and clip it to the image; None if nothing of it is left.

    Raises:
        ConfigError: the box is not four finite numbers.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ConfigError(f"A box must be four finite numbers (x0, y0, x1, y1), got {tuple(box)}.")
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(size.width, math.ceil(box[2])), min(size.height, math.ceil(box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def rle_encode(mask: Mask) -> Rle:
    """Encode a bool (H, W) mask as run lengths for JSON; ``rle_decode`` returns the same mask."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    counts = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}


def rle_decode(rle: Rle) -> Mask:
    """Decode run lengths of ``rle_encode`` or of COCO's tools (uncompressed) to a bool (H, W) mask.

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
    """Join masks: True where any of them is True; bool (H, W) of ``size``."""
    joined = np.zeros(tuple(size), dtype=np.bool_)
    for mask in masks:
        joined |= mask
    return joined


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks, in [0, 1]; 1 if both are empty."""
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / either if either else 1.0


def dilate(mask: Mask, pixels: float) -> Mask:
    """Grow a mask: all pixels within ``pixels`` (Euclidean distance, >= 0) of a True pixel."""
    if pixels <= 0 or not mask.any():
        return mask.copy()
    from scipy import ndimage

    near: Mask = ndimage.distance_transform_edt(~mask) <= pixels
    return near


def feather(mask: Mask, inner_pixels: float) -> NDArray[np.float32]:
    """Blending weights, float32 (H, W) in [0, 1]: 0 outside the mask, rising inwards to 1 over ``inner_pixels``.

    The image border does not count as an edge: a mask that touches the border keeps full weight there.
    """
    if inner_pixels <= 0 or mask.all():
        return mask.astype(np.float32)
    from scipy import ndimage

    weights = np.zeros(mask.shape, dtype=np.float32)
    if (box := box_of(mask)) is not None:
        x0, y0, x1, y1 = box
        near = slice(max(0, y0 - 1), y1 + 1), slice(max(0, x0 - 1), x1 + 1)  # has all nearest pixels outside the mask
        weights[near] = np.minimum(ndimage.distance_transform_edt(mask[near]) / (inner_pixels + 1), 1.0)
    return weights


def turned(mask: Mask, orientation: int) -> Mask:
    """Turn the mask of an image's stored pixels as the EXIF orientation, 1 to 8, turns the image."""
    if orientation >= 5:  # 5 to 8 swap the sides
        mask = mask.T
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(mask, flips))


def components(mask: Mask) -> list[Mask]:
    """Split a mask into its connected parts (8 neighbours), largest first; equal sizes in reading order."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == index + 1 for index in np.argsort(-areas, kind="stable")]


def location_words(box: Box, size: Size) -> str:
    """Name the ninth of the image that holds the centre of the box: "upper left", "left", "centre", "lower centre"."""
    x0, y0, x1, y1 = box
    across = ("left", "centre", "right")[min(2, int(3 * (x0 + x1) / 2 / size.width))]
    down = ("upper", "", "lower")[min(2, int(3 * (y0 + y1) / 2 / size.height))]
    return f"{down} {across}".strip()
