"""Boxes in shares of an image's sides, and how a model of a known box space writes and reads them.

Unlike ``boxes.py``, nothing is guessed: a model that was trained on a box space uses only that one.
"""

from __future__ import annotations

from collections.abc import Sequence

from refiner.detectors.grounding.inside import inside
from refiner.detectors.reading.boxes import BoxFormat, full_sides
from refiner.types import Box, Size

Shares = tuple[float, float, float, float]
"""A box (x0, y0, x1, y1) in shares of the image's width and height, in [0, 1]."""

_STEPS = 1000
"""Steps of a side in which coordinates are written that are not in pixels."""


def shares_of(box: Sequence[float], size: Size) -> Shares:
    """A box in pixels of an image of ``size`` as shares of the sides, cut to the image."""
    x0, y0, x1, y1 = (
        min(max(value / side, 0.0), 1.0) for value, side in zip(box, (size.width, size.height) * 2, strict=True)
    )
    return x0, y0, x1, y1


def pixels_of(box: Shares, size: Size) -> Box | None:
    """A box in shares as whole pixels of an image of ``size``, at least one wide and high; None for an empty image."""
    x0, x1 = _span(box[0], box[2], size.width)
    y0, y1 = _span(box[1], box[3], size.height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _span(low: float, high: float, side: int) -> tuple[int, int]:
    first = min(round(low * side), side - 1)
    return first, min(max(round(high * side), first + 1), side)


def told_box(box: Shares, form: BoxFormat, shown: Size) -> str:
    """A box as the model writes it, such as ``[120, 40, 310, 220]``, at least one step wide and high."""
    steps = shown if form.scale == "pixels" else Size(_STEPS, _STEPS)
    corners: list[float] = [*_span(box[0], box[2], steps.width), *_span(box[1], box[3], steps.height)]
    if form.scale == "unit":
        corners = [corner / _STEPS for corner in corners]
    x0, x1, y0, y1 = corners
    return str([y0, x0, y1, x1] if form.order == "yxyx" else [x0, y0, x1, y1])


def read_shares(numbers: str, form: BoxFormat, shown: Size) -> Shares | None:
    """Read the four numbers of a box, with commas between them; None if it is empty or outside the image.

    A box that is partly outside is clipped by the rule of ``grounding.inside``.
    """
    a, b, c, d = (float(number) for number in numbers.split(","))
    box = (b, a, d, c) if form.order == "yxyx" else (a, b, c, d)
    width, height = full_sides(form.scale, shown)
    clipped = inside(box, (width, height)) if box[0] < box[2] and box[1] < box[3] else None
    if clipped is None:
        return None
    x0, y0, x1, y1 = clipped
    return (x0 / width, y0 / height, x1 / width, y1 / height) if x0 < x1 and y0 < y1 else None
