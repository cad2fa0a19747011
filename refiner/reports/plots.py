"""Small plots as inline SVG with escaped texts: distributions, bars, intervals, attempts, before against after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from refiner.types import Analysis, Attempt, RefinementResult, Score

Values = NDArray[np.float64]

BINS: Final = 24
DOTS: Final = 2000
"""A scatter plot shows at most so many samples, evenly chosen."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 290, 16, 116
_FOREST_LEFT, _FOREST_RIGHT, _FOREST_TOP, _ROW = 112, 250, 10, 24
_LONGEST: Final = 17
"""Letters of a name beside a plot."""


def number(value: float | None) -> str:
    """A number for people: four digits; a dash where there is none."""
    if value is None or np.isnan(value):
        return "–"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def short(value: float) -> str:
    """A number for people: three digits."""
    return f"{value:.3g}"


def words(name: str) -> str:
    """A column's name for people."""
    return name.replace("_", " ")


def histogram(title: str, values: Values) -> Markup:
    """How many samples have which value; a line marks the mean. "" where no sample has one."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Markup("")
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


def scatter(across: str, up: str, first: Values, second: Values) -> Markup:
    """One dot a sample, and the diagonal on which nothing changes. "" where no sample has both values."""
    known = ~np.isnan(first) & ~np.isnan(second)
    if not known.any():
        return Markup("")
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


def bars(title: str, rows: Mapping[str, Sequence[float | None]], series: Sequence[str]) -> Markup:
    """Horizontal bars, one group a row, one bar a series. "" where there is nothing but zeros and gaps."""
    values = [value for row in rows.values() for value in row if value is not None and not np.isnan(value)]
    top = max(values, default=0.0)
    if top <= 0:
        return Markup("")
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


def forest(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], *, from_zero: bool) -> Markup:
    """A dot and a bar for each row's ``value``, ``low`` and ``high``; an SVG in a figure.

    Args:
        title: plain text.
        rows: name and estimate, from the top.
        from_zero: whether the axis begins at 0; else at the least ``low``.
    """
    low = 0.0 if from_zero else min(row["low"] for _, row in rows)
    high = max(row["high"] for _, row in rows)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    scale, bottom = (_FOREST_RIGHT - _FOREST_LEFT) / (high - low), _FOREST_TOP + _ROW * len(rows)
    parts = [
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_FOREST_TOP}" y2="{bottom}"/>'
        f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{short(value)}</text>'
        for x, value in ((_FOREST_LEFT, low), (_FOREST_RIGHT, high))
    ]
    for at, (name, row) in enumerate(rows):
        y = _FOREST_TOP + _ROW * (at + 0.5)
        left, middle, right = (_FOREST_LEFT + (row[key] - low) * scale for key in ("low", "value", "high"))
        parts.append(
            f"<g><title>{escape(name)}: {short(row['value'])} ({short(row['low'])} to {short(row['high'])})</title>"
            f'<text x="{_FOREST_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(cut(name))}</text>'
            f'<line class="band" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" r="3.5" cx="{middle:.1f}" cy="{y}"/>'
            f'<text x="{_FOREST_RIGHT + 10}" y="{y + 4}">{short(row["value"])}</text></g>'
        )
    return _figure(title, "".join(parts), height=bottom + 20)


def cut(name: str) -> str:
    """A name for a small space."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def charts(result: RefinementResult) -> Markup:
    """What detector and judge said of each attempt, a small SVG in a figure for each measure."""
    return Markup("").join(_chart(*series) for series in _series(result))


Series = tuple[str, Sequence[float | None], Sequence[bool], bool]


def _series(result: RefinementResult) -> list[Series]:
    """What is plotted: title, a value for each attempt, whether it was accepted, whether higher is better."""
    accepted = [attempt.accepted for attempt in result.attempts]

    def of_analysis(value: Callable[[Analysis], float]) -> list[float | None]:
        return [None if attempt.analysis is None else value(attempt.analysis) for attempt in result.attempts]

    rows: list[Series] = [
        ("burden (severity x confidence)", of_analysis(lambda analysis: analysis.burden), accepted, False),
        ("flagged area, %", of_analysis(lambda analysis: 100 * analysis.artifact_ratio), accepted, False),
    ]
    named: dict[str, Score] = {score.name: score for attempt in result.attempts for score in attempt.scores}
    for name, score in named.items():
        values = [score_of(attempt, name) for attempt in result.attempts]
        rows.append((name, values, accepted, score.higher_is_better))
    return rows


def score_of(attempt: Attempt, name: str) -> float | None:
    """What a judge gave an attempt; None where it gave nothing."""
    return next((score.value for score in attempt.scores if score.name == name), None)


def _chart(title: str, values: Sequence[float | None], accepted: Sequence[bool], higher: bool) -> Markup:
    """A small SVG: one dot an attempt, full where it was accepted, and a line through the best so far."""
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    low, high = min(known) if higher else 0.0, max(known)
    high = high if high > low else low + 1.0
    step = 240 / max(1, len(values) - 1)
    points = [
        (44 + step * place, 96 - 72 * (value - low) / (high - low), kept)
        for place, (value, kept) in enumerate(zip(values, accepted, strict=True))
        if value is not None
    ]
    path, y_best = [], points[0][1]
    for x, y, kept in points:
        y_best = y if kept else y_best
        path.append(f"{x:.1f},{y_best:.1f}")
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{"yes" if kept else "no"}"/>' for x, y, kept in points
    )
    marks = "".join(
        f'<text x="{44 + step * place:.1f}" y="122" text-anchor="middle">{place}</text>' for place in range(len(values))
    )
    inside = f"""<line class="grid" x1="44" x2="284" y1="24" y2="24"/>
<line class="grid" x1="44" x2="284" y1="96" y2="96"/>
<text x="36" y="28" text-anchor="end">{high:.4g}</text><text x="36" y="100" text-anchor="end">{low:.4g}</text>
<polyline class="line" points="{" ".join(path)}"/>{dots}{marks}"""
    return _figure(f"{title}, {'higher' if higher else 'lower'} is better", inside, height=128)


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


def _figure(caption: str, inside: str, width: int = 300, height: int = 134, *, wide: bool = False) -> Markup:
    kind = ' class="wide"' if wide else ""
    return Markup(f"""<figure{kind}><p class="small">{escape(caption)}</p>
<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{inside}</svg></figure>""")
