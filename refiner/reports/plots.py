"""Small plots as inline SVG: distributions, bars, and before against after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

BINS: Final = 24
DOTS: Final = 2000
"""A scatter plot shows at most so many samples, evenly chosen."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 290, 16, 116


def number(value: float | None) -> str:
    """A number for people: four digits; a dash where there is none."""
    if value is None or np.isnan(value):
        return "–"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def words(name: str) -> str:
    """A column's name for people."""
    return name.replace("_", " ")


def histogram(title: str, values: Values) -> str:
    """How many samples have which value; a line marks the mean. "" where no sample has one."""
    known = values[~np.isnan(values)]
    if not len(known):
        return ""
    low, high = _range(known)
    counts, edges = np.histogram(known, bins=BINS, range=(low, high))
    width = (_RIGHT - _LEFT) / BINS
    bars = "".join(
        f'<rect class="fill" x="{_LEFT + at * width:.1f}" y="{_BOTTOM - (_BOTTOM - _TOP) * count / counts.max():.1f}" '
        f'width="{width - 1:.1f}" height="{(_BOTTOM - _TOP) * count / counts.max():.1f}">'
        f"<title>{number(edges[at])} to {number(edges[at + 1])}: {count}</title></rect>"
        for at, count in enumerate(counts.tolist())
        if count
    )
    middle = _across(float(known.mean()), low, high)
    mark = f'<line class="line" x1="{middle:.1f}" x2="{middle:.1f}" y1="{_TOP - 6}" y2="{_BOTTOM}"/>'
    labels = _text(_LEFT - 6, _TOP + 4, number(float(counts.max())), "end") + _ends(low, high)
    caption = f"{words(title)}: mean {number(float(known.mean()))}, median {number(float(np.median(known)))}"
    return _figure(caption, f"{_axes()}{bars}{mark}{labels}")


def scatter(across: str, up: str, first: Values, second: Values) -> str:
    """One dot a sample, and the diagonal on which nothing changes. "" where no sample has both values."""
    known = ~np.isnan(first) & ~np.isnan(second)
    if not known.any():
        return ""
    x, y = first[known], second[known]
    low, high = _range(np.concatenate((x, y)))
    shown = np.unique(np.linspace(0, len(x) - 1, min(DOTS, len(x))).round().astype(int))
    size, left = 184, 58
    scale, bottom = size / (high - low), _TOP + size
    dots = "".join(
        f'<circle class="dot" r="2.2" cx="{left + (a - low) * scale:.1f}" cy="{bottom - (b - low) * scale:.1f}"/>'
        for a, b in zip(x[shown].tolist(), y[shown].tolist(), strict=True)
    )
    frame = f'<rect class="frame" x="{left}" y="{_TOP}" width="{size}" height="{size}"/>'
    frame += f'<line class="grid" x1="{left}" y1="{bottom}" x2="{left + size}" y2="{_TOP}"/>'
    labels = _text(left, bottom + 14, number(low), "start") + _text(left + size, bottom + 14, number(high), "end")
    above, below = int((y > x).sum()), int((y < x).sum())
    caption = f"{words(up)} (up) against {words(across)}: {above} higher, {below} lower, {len(x) - above - below} equal"
    if len(shown) < len(x):
        caption += f"; {len(shown)} of {len(x)} shown"
    return _figure(caption, frame + dots + labels, height=bottom + 18)


def bars(title: str, rows: Mapping[str, Sequence[float | None]], series: Sequence[str]) -> str:
    """Horizontal bars, one group a row, one bar a series. "" where there is nothing but zeros and gaps."""
    values = [value for row in rows.values() for value in row if value is not None and not np.isnan(value)]
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    step, thick = 14 * len(series) + 8, 11
    parts = []
    for at, (name, row) in enumerate(rows.items()):
        y = 6 + at * step
        parts.append(_text(170, y + step / 2, words(name), "end"))
        for place, value in enumerate(row):
            length = 0.0 if value is None or np.isnan(value) else 370 * max(0.0, value) / top
            down = y + place * 14
            parts.append(f'<rect class="fill s{place}" x="178" y="{down}" width="{length:.1f}" height="{thick}"/>')
            parts.append(_text(178 + length + 5, down + 9, number(value), "start"))
    legend = ", ".join(f"{words(name)}{' (light)' if place else ''}" for place, name in enumerate(series))
    return _figure(f"{title}: {legend}", "".join(parts), width=620, height=12 + step * len(rows), wide=True)


def _range(values: Values) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 0.5 < high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _across(value: float, low: float, high: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low)


def _axes() -> str:
    return "".join(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>' for y in (_TOP, _BOTTOM))


def _ends(low: float, high: float) -> str:
    return _text(_LEFT, _BOTTOM + 14, number(low), "start") + _text(_RIGHT, _BOTTOM + 14, number(high), "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(caption: str, inside: str, width: int = 300, height: int = 134, *, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"""<figure{kind}><p class="small">{escape(caption)}</p>
<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{inside}</svg></figure>"""
