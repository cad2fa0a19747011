"""Polygons to masks, and masks to other sizes, with exactly the pixels of OpenCV.

The tools of the data sets rasterise the truth with ``cv2.fillPoly`` and resize it with nearest neighbours. Scores are
comparable only if these pixels are the same. OpenCV is not a dependency, so this module implements its rules. Masks are
bool (H, W), True = flawed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import ConfigError
from refiner.types import Mask, Size

_ONE = 1 << 16
"""OpenCV stores the columns of a polygon's edges in fixed point with 16 fractional bits."""

_LARGEST: Final = 2**31 - 1
"""OpenCV takes corners as integers of 32 bits."""

Points = NDArray[np.int64]


def fill_polygons(polygons: Iterable[ArrayLike], size: Size, *, clip: bool = True) -> Mask:
    """The mask of polygons as ``cv2.fillPoly`` draws them one by one: outline and inside, by the even-odd rule.

    Args:
        polygons: at least three finite (x, y) in pixels each. Fractions are cut off.
        size: of the image.
        clip: True moves points outside to the image's border first, as the evaluation of X-AIGD does. False draws the
            polygon as it is, as the evaluation of LEGION does, and keeps what lies inside the image; one or two points
            are then a point or a line. Near the border the two differ by a few pixels.

    Returns:
        bool (H, W); all False without polygons.

    Raises:
        ConfigError: too few points, points that are not finite pairs, or, unclipped, points beyond 32 bits.
    """
    filled = np.zeros(tuple(size), dtype=np.bool_)
    corners = [_whole_corners(polygon, size, clip=clip) for polygon in polygons]
    if corners:
        ends = np.concatenate(corners)
        starts = np.concatenate([part for each in corners for part in (each[-1:], each[:-1])])
        owners = np.repeat(np.arange(len(corners)), [len(each) for each in corners])
        inner_starts, inner_ends, visible = _clip_edges(starts, ends, size)
        _fill_inside(filled, _Edges(starts, ends, inner_starts, inner_ends, owners))
        _draw_outline(filled, inner_starts[visible], inner_ends[visible])
    return filled


def _whole_corners(polygon: ArrayLike, size: Size, *, clip: bool) -> Points:
    points, least = np.asarray(polygon, dtype=np.float64), 3 if clip else 1
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least or not np.isfinite(points).all():
        raise ConfigError(
            f"Expected at least {'three finite points' if clip else 'one finite point'} (x, y), got an array of shape "
            f"{points.shape}: leave this polygon out."
        )
    whole = np.trunc(points)
    if clip:
        return np.clip(whole, 0, (size.width - 1, size.height - 1)).astype(np.int64)
    if np.abs(whole).max() > _LARGEST:
        raise ConfigError(
            f"Expected points of at most {_LARGEST} pixels, got {np.abs(whole).max():g}: leave this polygon out."
        )
    return whole.astype(np.int64)


def _clip_edges(starts: Points, ends: Points, size: Size) -> tuple[Points, Points, NDArray[np.bool_]]:
    """The edges cut at the border as ``cv2.clipLine`` cuts them, rows first; and which of them are in the image.

    An edge of which both ends lie beyond the same side stays as it is.
    """
    both = starts.copy(), ends.copy()
    last = np.array([size.width - 1, size.height - 1])
    for axis in (1, 0):
        crossing = (_beyond(both[0], last) & _beyond(both[1], last)).sum(axis=1) == 0
        goals = [np.clip(points[:, axis], 0, last[axis]) for points in both]
        for points, goal in zip(both, goals, strict=True):
            cut = crossing & (goal != points[:, axis])
            reach = (both[1][cut] - both[0][cut]).astype(np.float64)
            moved = (goal[cut] - points[cut, axis]) * reach[:, 1 - axis] / reach[:, axis]
            points[cut, 1 - axis] += np.trunc(moved).astype(np.int64)
            points[cut, axis] = goal[cut]
    inside = (_beyond(both[0], last) | _beyond(both[1], last)).sum(axis=1) == 0
    return *both, inside


def _beyond(points: Points, last: Points) -> NDArray[np.bool_]:
    """Bool (N, 4): left of the image, above it, right of it, below it."""
    return np.concatenate([points < 0, points > last], axis=1)


class _Edges(NamedTuple):
    """Edges of polygons, each array with a row for each edge."""

    starts: Points
    ends: Points
    inner_starts: Points
    """The start, or where the edge enters the image; OpenCV measures the slope from there."""
    inner_ends: Points
    owners: Points
    """Index of the polygon."""


def _fill_inside(mask: Mask, edges: _Edges) -> None:
    """In each row of each polygon, the whole columns between each odd and the next even crossing of an edge."""
    height, width = mask.shape
    sloped = edges.starts[:, 1] != edges.ends[:, 1]
    starts, ends, inner_starts, inner_ends, owners = (part[sloped] for part in edges)
    flat = inner_starts[:, 1] == inner_ends[:, 1]
    inner_starts[flat, 1], inner_ends[flat, 1] = starts[flat, 1], ends[flat, 1]
    downwards = (starts[:, 1] < ends[:, 1])[:, None]
    upper, lower = np.where(downwards, inner_starts, inner_ends), np.where(downwards, inner_ends, inner_starts)
    top = np.clip(np.minimum(starts[:, 1], ends[:, 1]), 0, height)
    edge, step = _spread(np.clip(np.maximum(starts[:, 1], ends[:, 1]), 0, height) - top)
    rise = (lower[:, 0] - upper[:, 0]) * _ONE
    slopes = np.sign(rise) * (np.abs(rise) // (lower[:, 1] - upper[:, 1]))
    rows = top[edge] + step
    crossings = upper[edge, 0] * _ONE + (rows - upper[edge, 1]) * slopes[edge]
    order = np.lexsort((crossings, rows, owners[edge]))
    crossings = crossings[order]
    first, last = np.maximum(-(-crossings[::2] // _ONE), 0), np.minimum(crossings[1::2] // _ONE, width - 1)
    seen = first <= last
    pixels, left = mask.reshape(-1), (rows[order][::2] * width)[seen]
    for start, stop in zip((left + first[seen]).tolist(), (left + last[seen] + 1).tolist(), strict=True):
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
