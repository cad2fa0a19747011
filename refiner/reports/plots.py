"""Small plots as inline SVG with escaped text: distributions, scatters, bars, intervals, attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from refiner.reports.axes import Axis, axis
from refiner.reports.wording import judge_words
from refiner.types import Attempt, RefinementResult

Values = NDArray[np.float64]

BINS: Final = 24
DOTS: Final = 2000
"""Most samples that a scatter plot shows, evenly chosen."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 290, 16, 116
_FOREST_LEFT, _FOREST_RIGHT, _FOREST_TOP, _ROW = 112, 250, 10, 24
_SLOPE_LEFT, _SLOPE_WIDTH, _SLOPE_STEP, _SLOPE_TOP = 122, 90, 56, 24
_SLOPES: Final = 4
"""Most columns of a chart that is not wide."""
_LONGEST: Final = 17
"""Most letters of a name beside a plot."""
_LETTER: Final = 6.2
"""Width of a digit on a plot."""
_NUMBERS: Final = 12
"""Most numbers of attempts below a chart."""


def number(value: float | None) -> str:
    """A number with four digits; a dash for None and NaN."""
    if value is None or np.isnan(value):
        return "–"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def short(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}"


def span(estimate: Mapping[str, Any]) -> str:
    """The interval of an estimate from ``low`` to ``high``, in words."""
    low, high = estimate["low"], estimate["high"]
    return "interval not known" if low is None or high is None else f"{short(low)} to {short(high)}"


def words(name: str) -> str:
    """The name of a column, without underscores."""
    return name.replace("_", " ")


def histogram(title: str, values: Values) -> Markup:
    """The distribution of a column, with a line at its mean; "" if the column has no number.

    Args:
        title: plain text.
        values: one for each sample; NaN is left out.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Markup("")
    across = _shares_or(known)
    counts, edges = np.histogram(known, bins=BINS, range=(across.low, across.high))
    width = (_RIGHT - _LEFT) / BINS
    bars = "".join(
        f'<rect class="fill" x="{_LEFT + at * width:.1f}" y="{_BOTTOM - (_BOTTOM - _TOP) * count / counts.max():.1f}" '
        f'width="{width - 1:.1f}" height="{(_BOTTOM - _TOP) * count / counts.max():.1f}">'
        f"<title>{number(edges[at])} to {number(edges[at + 1])}: {count}</title></rect>"
        for at, count in enumerate(counts.tolist())
        if count
    )
    mean = float(known.mean())
    middle = _LEFT + (_RIGHT - _LEFT) * across.share(mean)
    axes = _line(_LEFT, _RIGHT, _TOP, _TOP) + _line(_LEFT, _RIGHT, _BOTTOM, _BOTTOM)
    labels = _text(_LEFT - 6, _TOP + 4, number(float(counts.max())), "end")
    labels += _ticks_below(across, _LEFT, _RIGHT, _BOTTOM + 14)
    caption = f"{title}: mean {number(mean)}, median {number(float(np.median(known)))}"
    return _figure(caption, f"{axes}{bars}{_line(middle, middle, _TOP - 6, _BOTTOM, 'line')}{labels}")


def scatter(across: str, up: str, first: Values, second: Values) -> Markup:
    """A dot for each sample, and the diagonal of equal values; "" if no sample has both values.

    Args:
        across, up: what is drawn on the two axes; plain text.
        first, second: its values, one for each sample.
    """
    known = ~np.isnan(first) & ~np.isnan(second)
    if not known.any():
        return Markup("")
    x, y = first[known], second[known]
    both = _shares_or(np.concatenate((x, y)))
    shown = np.unique(np.linspace(0, len(x) - 1, min(DOTS, len(x))).round().astype(int))
    size, left = 184, 58
    bottom = _TOP + size
    dots = "".join(
        f'<circle class="dot" r="2.2" cx="{left + size * both.share(a):.1f}" cy="{bottom - size * both.share(b):.1f}"/>'
        for a, b in zip(x[shown].tolist(), y[shown].tolist(), strict=True)
    )
    frame = f'<rect class="frame" x="{left}" y="{_TOP}" width="{size}" height="{size}"/>'
    frame += _line(left, left + size, bottom, _TOP)
    labels = _ticks_below(both, left, left + size, bottom + 14)
    labels += "".join(_text(left - 6, bottom - size * both.share(value) + 4, text, "end") for value, text in both.ticks)
    above, below = int((y > x).sum()), int((y < x).sum())
    caption = f"{up} (up) against {across}: {above} higher, {below} lower, {len(x) - above - below} equal"
    if len(shown) < len(x):
        caption += f"; {len(shown)} of {len(x)} shown"
    return _figure(caption, frame + dots + labels, height=bottom + 18)


def bars(title: str, rows: Mapping[str, Sequence[float | None]], series: Sequence[str]) -> Markup:
    """Horizontal bars: a group for each row with a positive value, a bar for each series; "" without such a row.

    Args:
        title: plain text.
        rows: name of a group -> its values, one for each series.
        series: names, plain text.
    """
    known = {name: [value for value in row if value is not None and value > 0] for name, row in rows.items()}
    rows = {name: row for name, row in rows.items() if known[name]}
    if not rows:
        return Markup("")
    top = max(value for values in known.values() for value in values)
    step = 14 * len(series) + 24
    parts = []
    for at, (name, row) in enumerate(rows.items()):
        y = at * step
        parts.append(_text(0, y + 12, words(name), "start"))
        for place, value in enumerate(row):
            length = 0.0 if value is None or np.isnan(value) else 250 * max(0.0, value) / top
            down = y + 17 + place * 14
            parts.append(f'<rect class="fill s{place}" x="0" y="{down}" width="{length:.1f}" height="11"/>')
            parts.append(_text(length + 5, down + 9, number(value), "start"))
    return _figure(f"{title}: {' above '.join(series)}", "".join(parts), height=step * len(rows))


def forest(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], *, from_zero: bool) -> Markup:
    """A dot at ``value`` and a line from ``low`` to ``high``, if they are known, for each row.

    Args:
        title: plain text.
        rows: name and estimate, from the top.
        from_zero: whether the axis starts at 0.
    """
    known = [row[key] for _, row in rows for key in ("low", "value", "high") if row[key] is not None]
    across = axis(known, from_zero=from_zero)
    width, bottom = _FOREST_RIGHT - _FOREST_LEFT, _FOREST_TOP + _ROW * len(rows)
    parts = [_line(x, x, _FOREST_TOP, bottom) for x in (_FOREST_LEFT, _FOREST_RIGHT)]
    parts.append(_ticks_below(across, _FOREST_LEFT, _FOREST_RIGHT, bottom + 14))
    for at, (name, row) in enumerate(rows):
        y = _FOREST_TOP + _ROW * (at + 0.5)
        ends = (row["value"] if row[key] is None else row[key] for key in ("low", "value", "high"))
        left, middle, right = (_FOREST_LEFT + width * across.share(end) for end in ends)
        parts.append(
            f"<g><title>{escape(name)}: {short(row['value'])} ({span(row)})</title>"
            f"{_text(_FOREST_LEFT - 8, y + 4, cut(name), 'end')}{_line(left, right, y, y, 'band')}"
            f'<circle class="dot" r="3.5" cx="{middle:.1f}" cy="{y}"/>'
            f"{_text(_FOREST_RIGHT + 10, y + 4, short(row['value']), 'start')}</g>"
        )
    return _figure(title, "".join(parts), height=bottom + 20)


def slopes(title: str, heads: Sequence[str], orders: Sequence[Sequence[tuple[str, int]]]) -> Markup:
    """A column for each ranking and a line for each name; lines of names that change their row are darker.

    Args:
        title: plain text.
        heads: of the columns, one or two letters each.
        orders: name and place of each row from the top, for each column; all with the same names.
    """
    right = _SLOPE_LEFT + max(_SLOPE_WIDTH, _SLOPE_STEP * (len(orders) - 1))
    across = np.linspace(_SLOPE_LEFT, right, len(orders)).tolist()
    rows = [{name: (at, place) for at, (name, place) in enumerate(order)} for order in orders]
    lines, marks = [], [_text(x, _SLOPE_TOP - 8, head, "middle") for x, head in zip(across, heads, strict=True)]
    for name in rows[0]:
        heights = [_SLOPE_TOP + _ROW * (row[name][0] + 0.5) for row in rows]
        places = [str(row[name][1]) for row in rows]
        told = ", ".join(f"{place} by {head}" for place, head in zip(places, heads, strict=True))
        points = " ".join(f"{x:.1f},{y}" for x, y in zip(across, heights, strict=True))
        kind = "slope moved" if len(set(heights)) > 1 else "slope"
        lines.append(f'<polyline class="{kind}" points="{points}"><title>{escape(name)}: {told}</title></polyline>')
        marks += [
            f'<circle class="place" cx="{x:.1f}" cy="{y}" r="9"/>{_text(x, y + 4, place, "middle")}'
            for x, y, place in zip(across, heights, places, strict=True)
        ]
        marks.append(_text(_SLOPE_LEFT - 15, heights[0] + 4, cut(name), "end"))
        marks.append(_text(right + 15, heights[-1] + 4, cut(name), "start"))
    size = {"width": right + _SLOPE_LEFT, "height": _SLOPE_TOP + _ROW * len(rows[0]) + 6}
    return _figure(title, "".join([*lines, *marks]), **size, wide=len(orders) > _SLOPES)


def cut(name: str) -> str:
    """A name, cut to fit beside a plot."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def charts(result: RefinementResult) -> Markup:
    """Burden, flagged area and each score of all attempts, a plot each."""
    analyses = [attempt.analysis for attempt in result.attempts]
    shares = [None if each is None else each.known_ratio for each in analyses]
    rows = [
        ("burden (severity x confidence)", [None if each is None else each.burden for each in analyses], False),
        ("flagged area, %", [None if share is None else 100 * share for share in shares], False),
    ]
    named = {score.name: score for attempt in result.attempts for score in attempt.scores}
    for name, score in named.items():
        values = [score_of(attempt, name) for attempt in result.attempts]
        rows.append((judge_words(name), values, score.higher_is_better))
    accepted = [attempt.accepted for attempt in result.attempts]
    return Markup("").join(_chart(title, values, accepted, higher) for title, values, higher in rows)


def score_of(attempt: Attempt, name: str) -> float | None:
    """The score of an attempt by a judge; None if there is none."""
    return next((score.value for score in attempt.scores if score.name == name), None)


def _chart(title: str, values: Sequence[float | None], accepted: Sequence[bool], higher: bool) -> Markup:
    """A dot for each attempt, full if it was accepted, and a line through the best so far."""
    values = [None if value is None or not math.isfinite(value) else value for value in values]
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    up = axis(known, from_zero=not higher)
    step = 240 / max(1, len(values) - 1)
    first = 44 if len(values) > 1 else 164
    points = [
        (first + step * place, 96 - 72 * up.share(value), kept)
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
    told = range(0, len(values), -(-len(values) // _NUMBERS))
    marks = "".join(_text(first + step * place, 122, str(place), "middle") for place in told)
    axes = "".join(_line(44, 284, y, y) + _text(36, y + 4, text, "end") for y, text in _ticks_beside(up, 24, 96))
    inside = f'{axes}<polyline class="line" points="{" ".join(path)}"/>{dots}{marks}'
    return _figure(f"{title}, {'higher' if higher else 'lower'} is better", inside, height=128)


def _shares_or(values: Values) -> Axis:
    """The axis of values; from 0 to 1 for shares of which one is above a half."""
    low, high = float(values.min()), float(values.max())
    return axis((0.0, 1.0)) if low >= 0 and 0.5 < high <= 1 else axis((low, high))


def _ticks_below(across: Axis, left: float, right: float, y: float) -> str:
    """The labels of the ends of a horizontal axis, and of ticks between them that have room."""
    ends = (across.ticks[0], across.ticks[-1])
    longest = max(len(text) for _, text in across.ticks)
    room = (right - left) / (len(across.ticks) - 1) > _LETTER * (longest + 1)
    shown = across.ticks if room else ends
    return "".join(_text(left + (right - left) * across.share(value), y, text, "middle") for value, text in shown)


def _ticks_beside(up: Axis, top: float, bottom: float) -> list[tuple[float, str]]:
    """Height and label of each tick of a vertical axis."""
    return [(bottom - (bottom - top) * up.share(value), text) for value, text in up.ticks]


def _line(x1: float, x2: float, y1: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(caption: str, inside: str, width: int = 300, height: int = 134, *, wide: bool = False) -> Markup:
    kind = ' class="wide"' if wide else ""
    return Markup(f"""<figure{kind}><p class="small">{escape(caption)}</p>
<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{inside}</svg></figure>""")
