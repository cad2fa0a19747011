"""The severities of candidates before and after the check by people, as one PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from refiner.images import save_png
from refiner.reports.overlays import CARD, FAINT, GOOD, INK, PAPER, RULE, font
from refiner.reports.plots import short

BINS: Final = 20
_WIDTH, _PANEL, _PAD = 760, 250, 32
_LEFT, _RIGHT = 96, _WIDTH - 56
_BEFORE: Final = "#8f8b82"


def save_severities(before: Sequence[float], after: Sequence[float], path: Path) -> Path:
    """Draw two histograms below each other, with the same axes: of all candidates, and of the accepted ones.

    Args:
        before: severities of all candidates, in [0, 1], 1 = worst; at least one.
        after: those of the accepted ones; may be empty.
        path: of the PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    canvas = Image.new("RGB", (_WIDTH, 2 * _PANEL + 3 * _PAD + 30), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_PAD, _PAD - 6), "Severity of the flaws (0 = mild, 1 = worst)", font=font(20), fill=INK)
    counts = [_counts(values) for values in (before, after)]
    top = max(int(each.max()) for each in counts)
    share = f", {100 * len(after) / len(before):.0f} % of them"
    panels = (("candidates", before, counts[0], _BEFORE, ""), ("accepted", after, counts[1], GOOD, share))
    for place, (name, values, bars, colour, more) in enumerate(panels):
        y = _PAD + 34 + place * (_PANEL + _PAD)
        _panel(draw, y, f"{len(values)} {name}{more}", values, bars, top, colour)
    return save_png(canvas, path)


def _counts(values: Sequence[float]) -> np.ndarray:
    return np.histogram(values, bins=BINS, range=(0.0, 1.0))[0]


def _panel(
    draw: ImageDraw.ImageDraw, y: int, title: str, values: Sequence[float], bars: np.ndarray, top: int, colour: str
) -> None:
    """One histogram with its mean; ``top`` is the count at the upper end of the axis."""
    upper, lower = y + 50, y + _PANEL - 34
    draw.rounded_rectangle((_PAD, y, _WIDTH - _PAD, y + _PANEL), radius=8, fill=CARD, outline=RULE)
    draw.text((_LEFT, y + 14), title, font=font(17), fill=INK)
    for count, at in ((top, upper), (0, lower)):
        draw.line((_LEFT, at, _RIGHT, at), fill=RULE)
        draw.text((_LEFT - 10, at), str(count), font=font(14), fill=FAINT, anchor="rm")
    width = (_RIGHT - _LEFT) / BINS
    for bar, count in enumerate(bars.tolist()):
        if count:
            x = _LEFT + bar * width
            draw.rectangle((x + 1, lower - (lower - upper) * count / top, x + width - 2, lower), fill=colour)
    for tick in np.linspace(0, 1, 6).tolist():
        x = _LEFT + tick * (_RIGHT - _LEFT)
        draw.text((x, lower + 10), f"{tick:.1f}", font=font(14), fill=FAINT, anchor="mt")
    if values:
        mean = math.fsum(values) / len(values)
        x = _LEFT + mean * (_RIGHT - _LEFT)
        draw.line((x, upper - 8, x, lower), fill=INK, width=2)
        right = mean > 0.8
        draw.text((x - 6 if right else x + 6, upper - 16), f"mean {short(mean)}", font=font(14), fill=INK,
                  anchor="rt" if right else "lt")  # fmt: skip
