"""Polygons to masks, and masks to other sizes, with exactly the pixels of OpenCV.

The tools of the data sets rasterise the truth with ``cv2.fillPoly`` and resize it with nearest neighbours. Scores are
comparable only if these pixels are the same. OpenCV is not a dependency, so this module implements its rules. Masks are
bool (H, W), True = flawed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import ConfigError
from refiner.types import Mask, Size

_ONE = 1 << 16
"""OpenCV stores the columns of a polygon's edges in fixed point with 16 fractional bits."""

Points = NDArray[np.int64]


def fill_polygons(polygons: Iterable[ArrayLike], size: Size) -> Mask:
    """The mask of polygons as ``cv2.fillPoly`` draws them one by one: outline and inside, by the even-odd rule.

    Args:
        polygons: at least three finite (x, y) in pixels each. Fractions are cut off and points outside are moved to
            the image's border, as in the evaluation scripts of X-AIGD and LEGION.
        size: of the image.

    Returns:
        bool (H, W); all False without polygons.

    Raises:
        ConfigError: fewer than three points, or points that are not finite pairs.
    """
    filled = np.zeros(tuple(size), dtype=np.bool_)
    corners = [_whole_corners(polygon, size) for polygon in polygons]
    if corners:
        ends = np.concatenate(corners)
        starts = np.concatenate([part for each in corners for part in (each[-1:], each[:-1])])
        owners = np.repeat(np.arange(len(corners)), [len(each) for each in corners])
        _fill_inside(filled, starts, ends, owners)
        _draw_outline(filled, starts, ends)
    return filled


def _whole_corners(polygon: ArrayLike, size: Size) -> Points:
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ConfigError(
            f"Expected at least three finite points (x, y), got an array of shape {points.shape}: "
            "leave this polygon out."
        )
    return np.clip(np.trunc(points), 0, (size.width - 1, size.height - 1)).astype(np.int64)


def _fill_inside(mask: Mask, starts: Points, ends: Points, owners: Points) -> None:
    """In each row of each polygon, the whole columns between each odd and the next even crossing of an edge."""
    sloped = starts[:, 1] != ends[:, 1]
    starts, ends, owners = starts[sloped], ends[sloped], owners[sloped]
    downwards = (starts[:, 1] < ends[:, 1])[:, None]
    upper, lower = np.where(downwards, starts, ends), np.where(downwards, ends, starts)
    heights = lower[:, 1] - upper[:, 1]
    edge, step = _spread(heights)
    rise = (lower[:, 0] - upper[:, 0]) * _ONE
    slopes = np.sign(rise) * (np.abs(rise) // heights)
    rows = upper[edge, 1] + step
    crossings = upper[edge, 0] * _ONE + step * slopes[edge]
    order = np.lexsort((crossings, rows, owners[edge]))
    crossings = crossings[order]
    first, last = -(-crossings[::2] // _ONE), crossings[1::2] // _ONE
    pixels, left = mask.reshape(-1), rows[order][::2] * mask.shape[1]
    for start, stop in zip((left + first).tolist(), (left + last + 1).tolist(), strict=True):
        pixels[start:stop] = True


def _draw_outline(mask: Mask, starts: Points, ends: Points) -> None:
    """Bresenham's lines with eight neighbours, each from its left end; a tie moves only along the longer axis."""
    leftwards = (starts[:, 0] > ends[:, 0])[:, None]
    first, last = np.where(leftwards, ends, starts), np.where(leftwards, starts, ends)
    reach = np.abs(last - first)
    steep = reach[:, 1] > reach[:, 0]
    major, minor = reach.max(axis=1), reach.min(axis=1)
    edge, step = _spread(major + 1)
    aside = -((major[edge] - 2 * minor[edge] * step) // np.maximum(2 * major[edge], 1))
    across, down = np.where(steep[edge], aside, step), np.where(steep[edge], step, aside)
    towards = np.sign(last[:, 1] - first[:, 1])
    mask[first[edge, 1] + down * towards[edge], first[edge, 0] + across] = True


def _spread(lengths: Points) -> tuple[Points, Points]:
    """For each length n the numbers 0 to n - 1; and the index of the length for each number."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def resize_nearest(mask: Mask, size: Size) -> Mask:
    """Resize a mask with the pixels of ``cv2.resize`` with ``INTER_NEAREST``; bool (H, W) of ``size``."""
    rows, columns = (_nearest(old, new) for old, new in zip(mask.shape, size, strict=True))
    return mask[rows[:, None], columns]


def _nearest(old: int, new: int) -> Points:
    """OpenCV inverts the scale twice in double precision; ``old / new`` would sometimes pick other pixels."""
    return np.minimum((np.arange(new) * (1.0 / (new / old))).astype(np.int64), old - 1)


def centre_crop(mask: Mask, size: Size) -> Mask:
    """The centre of a mask; the margins at the top and left are rounded down.

    Raises:
        ConfigError: the mask is smaller than ``size``.
    """
    height, width = mask.shape
    if size.height > height or size.width > width:
        raise ConfigError(f"Expected a mask of at least {tuple(size)} to crop, got {mask.shape}: resize it first.")
    top, left = (height - size.height) // 2, (width - size.width) // 2
    return mask[top : top + size.height, left : left + size.width]
