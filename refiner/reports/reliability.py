"""A reliability diagram as one PNG: the share of generated images against their probability, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from refiner.images import save_png
from refiner.metrics.calibration import BINS, Bin
from refiner.metrics.intervals import clopper_pearson
from refiner.reports.overlays import BAD, CARD, FAINT, GOOD, INK, PAPER, RULE, font

_SIDE, _PAD, _COUNTS, _GAP = 380, 32, 70, 16
_WIDTH = 2 * _SIDE + 3 * _PAD
_INSET: Final = 52
"""From the border of a panel to its axes."""


def save_reliability(before: Sequence[Bin], after: Sequence[Bin], path: Path) -> Path:
    """Draw two panels beside each other. On the diagonal, probabilities are right.

    A dot is a bin of images, at their mean probability and their share of generated ones; the line through it is the
    95 % interval of the share (Clopper and Pearson). Below: how many images each bin has.

    Args:
        before: bins of the detector's own scores, from ``refiner.metrics.calibration.reliability``.
        after: bins of the calibrated probabilities.
        path: of the PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    canvas = Image.new("RGB", (_WIDTH, _SIDE + _COUNTS + _GAP + 3 * _PAD), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_PAD, _PAD - 10), "Share of generated images by probability", font=font(20), fill=INK)
    for place, (_, panel) in enumerate(reliability_panels(before, after)):
        canvas.paste(panel, (_PAD + place * (_SIDE + _PAD), 2 * _PAD))
    return save_png(canvas, path)


def reliability_panels(before: Sequence[Bin], after: Sequence[Bin]) -> list[tuple[str, Image.Image]]:
    """The two panels of ``save_reliability``, each with its name; RGB."""
    panels = (("by the detector's score", before, BAD), ("by the calibrated probability", after, GOOD))
    return [(name, _panel(name, bins, colour)) for name, bins, colour in panels]


def _panel(name: str, bins: Sequence[Bin], colour: str) -> Image.Image:
    side, height = _SIDE, _SIDE + _COUNTS + _GAP
    panel = Image.new("RGB", (side + 1, height + 1), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.rounded_rectangle((0, 0, side, height), radius=8, fill=CARD, outline=RULE)
    draw.text((16, 12), f"{name}, {sum(each.images for each in bins)} images", font=font(15), fill=INK)
    _shares(draw, (_INSET, _INSET, side - 24, side - _INSET), bins, colour)
    _counts(draw, (_INSET, side - 16, side - 24, side + _COUNTS - 8), bins, colour)
    return panel


def _shares(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], bins: Sequence[Bin], colour: str) -> None:
    left, top, right, bottom = frame
    for tick in np.linspace(0, 1, 6).tolist():
        x, y = left + tick * (right - left), bottom - tick * (bottom - top)
        draw.line((left, y, right, y), fill=RULE)
        draw.text((left - 8, y), f"{tick:.1f}", font=font(13), fill=FAINT, anchor="rm")
        draw.text((x, bottom + 6), f"{tick:.1f}", font=font(13), fill=FAINT, anchor="mt")
    draw.line((left, bottom, right, top), fill=FAINT)
    points = []
    for each in bins:
        x = left + each.probability * (right - left)
        low, high = (bottom - end * (bottom - top) for end in clopper_pearson(each.generated, each.images))
        draw.line((x, low, x, high), fill=colour, width=2)
        points.append((x, bottom - each.generated / each.images * (bottom - top)))
    draw.line(points, fill=colour, width=2)
    for x, y in points:
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)


def _counts(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], bins: Sequence[Bin], colour: str) -> None:
    """A bar for each bin, with its number of images."""
    left, top, right, bottom = frame
    most, width = max(each.images for each in bins), (right - left) / BINS
    draw.line((left, bottom, right, bottom), fill=RULE)
    for each in bins:
        x = left + min(int(each.probability * BINS), BINS - 1) * width
        y = bottom - (bottom - top - 14) * each.images / most
        draw.rectangle((x + 1, y, x + width - 2, bottom - 1), fill=colour)
        draw.text((x + width / 2, y - 2), str(each.images), font=font(11), fill=FAINT, anchor="mb")
