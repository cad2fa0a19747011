"""Masks, boxes and location words. Masks are bool (H, W), True = flawed; boxes are half-open (x0, y0, x1, y1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict, TypeGuard

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.images import MAX_PIXELS
from refiner.types import Box, Mask, Size

_WIDEST: Final = 35
"""Bits of a compressed count."""


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
    """Decode run lengths of ``rle_encode`` or of COCO's tools to a bool (H, W) mask.

    Args:
        rle: ``counts`` may also be a text or bytes, which is COCO's compressed form. Any other value is refused.

    Raises:
        ConfigError: no such run lengths, or they do not add up to the size, or that is above ``MAX_PIXELS``.
    """
    size, counts = (rle.get(name) for name in ("size", "counts")) if isinstance(rle, Mapping) else (None, None)
    if isinstance(counts, str | bytes):
        counts = _decompressed(counts if isinstance(counts, str) else counts.decode("latin-1"))
    if not (_are_whole(size) and len(size) == 2 and _are_whole(counts)):
        raise ConfigError(f"Run lengths must have a size [H, W] and counts of whole numbers, got {rle!r:.80}.")
    height, width = size
    if min(size) < 0 or max(height, width, height * width) > MAX_PIXELS:
        raise ConfigError(f"Run lengths must be of at most {MAX_PIXELS} pixels, got {height!r:.20} x {width!r:.20}.")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ConfigError(f"Run lengths must add up to {height} x {width} pixels, got {sum(counts)!r:.40}.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.asarray(counts, dtype=np.int64)).reshape((height, width), order="F")


def _are_whole(values: Any) -> TypeGuard[Sequence[int]]:
    """Whether a value is a list of whole numbers."""
    return isinstance(values, list | tuple) and all(type(value) is int for value in values)


def _decompressed(text: str) -> list[int]:
    """The counts of COCO's compressed form.

    Each count is written in letters of 6 bits from "0", the lowest first: 5 bits of the number, and 1 that says whether
    another letter follows. The fifth bit of the last letter is the sign. From the fourth count on, the number is the
    difference to the last but one.

    Raises:
        ConfigError: another letter, a number that is too long, or the end within one.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - ord("0")
        if not 0 <= bits < 64 or shift > _WIDEST:
            break
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    else:
        if not shift:
            return counts
    raise ConfigError(f"Compressed run lengths must be in COCO's form, got {text!r:.80}.")


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
