"""Plot the values in a training log as curves in one PNG."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from refiner.files import atomic_write

Curve = list[tuple[int, float]]  # pairs of a step and a value

_WIDTH, _HEIGHT, _MARGIN, _COLUMNS = 360, 200, 36, 3
_INK, _AXIS, _LINE = "#222222", "#bbbbbb", "#2166ac"


def draw_curves(log: Path, picture: Path) -> None:
    """Draw one panel for each value of each stage in ``log``, a file of JSON lines, into the PNG ``picture``.

    If the log is missing or empty, nothing is written.
    """
    panels = read_curves(log)
    if not panels:
        return
    rows = math.ceil(len(panels) / _COLUMNS)
    sheet = Image.new("RGB", (_WIDTH * min(len(panels), _COLUMNS), _HEIGHT * rows), "white")
    for place, (title, curve) in enumerate(panels.items()):
        sheet.paste(_panel(title, curve), (_WIDTH * (place % _COLUMNS), _HEIGHT * (place // _COLUMNS)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write(picture, buffer.getvalue())


def read_curves(log: Path) -> dict[str, Curve]:
    """Read the finite values of a log, by title (stage and name). If a step was run twice, the last value counts."""
    found: dict[str, dict[int, float]] = {}
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    for line in lines:
        row = json.loads(line)
        stage, step = row.pop("stage"), row.pop("step")
        row.pop("seconds", None)
        for name, value in row.items():
            if value is not None and math.isfinite(value):
                found.setdefault(f"{stage}  {name}", {})[step] = value
    return {title: sorted(curve.items()) for title, curve in found.items()}


def _panel(title: str, curve: Sequence[tuple[int, float]]) -> Image.Image:
    panel = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(panel)
    left, top, right, bottom = _MARGIN + 20, _MARGIN, _WIDTH - 16, _HEIGHT - _MARGIN
    steps, values = [step for step, _ in curve], [value for _, value in curve]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    points = [
        (
            left + (right - left) * (step - first) / max(1, last - first),
            bottom - (bottom - top) * (value - low) / ((high - low) or 1.0),
        )
        for step, value in curve
    ]
    pen.rectangle((left, top, right, bottom), outline=_AXIS)
    if len(points) > 1:
        pen.line(points, fill=_LINE, width=2)
    else:
        x, y = points[0]
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_LINE)
    pen.text((left, 10), title, fill=_INK)
    pen.text((4, top - 4), f"{high:.3g}", fill=_INK)
    pen.text((4, bottom - 8), f"{low:.3g}", fill=_INK)
    pen.text((left, bottom + 6), str(first), fill=_INK)
    pen.text((right - 8 * len(str(last)), bottom + 6), str(last), fill=_INK)
    return panel
