"""Convert a mask to the outline that is drawn around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.types import Mask

Point = tuple[float, float]

MOST = 192
"""Longest side of a mask whose outline is traced, in pixels; larger masks are scaled down first."""


def svg_path(mask: Mask) -> str:
    """The ``d`` of an SVG path around a mask, holes included (fill rule evenodd).

    Corners of pixels are cut, so that diagonal edges look smooth.

    Args:
        mask: bool (H, W).

    Returns:
        A path with coordinates in pixels of the mask; empty for an empty mask.
    """
    height, width = mask.shape
    small = _small(mask)
    across, down = width / small.shape[1], height / small.shape[0]
    parts = []
    for loop in _loops(small):
        points = [(round(x * across, 1), round(y * down, 1)) for x, y in _rounded(loop)]
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(parts)


def _small(mask: Mask) -> Mask:
    height, width = mask.shape
    scale = MOST / max(height, width)
    if scale >= 1:
        return mask
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    share = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
    return share > min(127, int(share.max()) - 1) if mask.any() else share > 0


def _loops(mask: Mask) -> Iterator[list[tuple[int, int]]]:
    """Closed loops along the borders of pixels, as corners (x, y), with flawed pixels to the right."""
    ways = _ways(mask)
    while ways:
        start = next(iter(ways))
        loop, at = [], start
        while True:
            loop.append(at)
            onward = ways[at]
            following = onward.pop()
            if not onward:
                del ways[at]
            at = following
            if at == start:
                break
        yield loop


def _ways(mask: Mask) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Corner -> the next corners along a border."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]

    def open_to(rows: slice, columns: slice) -> list[list[int]]:
        found: NDArray[np.intp] = np.argwhere(inside & ~padded[rows, columns])
        return found.tolist()

    whole, before, after = slice(1, -1), slice(0, -2), slice(2, None)
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in open_to(before, whole):
        ways.setdefault((x, y), []).append((x + 1, y))
    for y, x in open_to(whole, after):
        ways.setdefault((x + 1, y), []).append((x + 1, y + 1))
    for y, x in open_to(after, whole):
        ways.setdefault((x + 1, y + 1), []).append((x, y + 1))
    for y, x in open_to(whole, before):
        ways.setdefault((x, y + 1), []).append((x, y))
    return ways


def _rounded(loop: list[tuple[int, int]]) -> list[Point]:
    """The middle points of a loop's edges, without points inside a straight line."""
    middles = [((x + u) / 2, (y + v) / 2) for (x, y), (u, v) in zip(loop, loop[1:] + loop[:1], strict=True)]
    kept = []
    for at, (x, y) in enumerate(middles):
        (a, b), (u, v) = middles[at - 1], middles[(at + 1) % len(middles)]
        if (x - a) * (v - y) != (y - b) * (u - x):
            kept.append((x, y))
    return kept
