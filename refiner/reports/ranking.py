"""The page of a ranking: one HTML file that needs nothing else. All text from people, files and models is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np

from refiner.data.samples import DataSet
from refiner.errors import InputError
from refiner.evaluate.harness import Run
from refiner.evaluate.ranking_table import FIGURES, HIGHER_IS_BETTER, VARIANTS, short
from refiner.files import Json, atomic_write, dumps
from refiner.records import analysis_from_dict
from refiner.reports.overlays import flaw_words, overlay
from refiner.reports.plots import words
from refiner.reports.result_page import data_uri, document

REPORT_FILE: Final = "report.html"
SHOWN: Final = 6
"""How many prompts are shown with the pictures of all generators."""
_SIDE: Final = 240
_ROW, _LEFT, _RIGHT, _TOP = 24, 112, 250, 10
_LONGEST: Final = 17
"""Letters of a name beside a plot."""

_CSS = """
a { color: inherit; }
.numbers td { white-space: nowrap; } .numbers td:first-child { width: auto; }
.numbers th, .numbers td { text-align: right; } .numbers .text { text-align: left; white-space: normal; }
.numbers td span { display: block; color: var(--faint); font-size: 12px; }
.dot { fill: var(--ink); } .band { stroke: var(--ink); stroke-width: 1.5; }
.cells td { text-align: center; padding: 9px 12px; } .cells th { text-align: center; padding: 0 12px 6px; }
.cells .text { text-align: left; padding-left: 0; } .cells { width: auto; }
.beside { display: grid; gap: 14px; overflow-x: auto; margin: 0 0 30px; align-items: start; }
.beside img { width: 100%; display: block; border-radius: 4px; } .beside figcaption { display: block; }
.beside .none { background: var(--card); border-radius: 4px; }
h3 { margin: 0 0 10px; } .said { margin: 0 0 12px; max-width: 72ch; } dl.terms dt { font-weight: 600; }
dl.terms { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dl.terms dd { margin: 0; }
"""


def write_rank_report(document_: Json, runs: Mapping[str, Run], data: Mapping[str, DataSet], folder: Path) -> Path:
    """Write ``report.html``.

    Args:
        document_: from ``refiner.evaluate.ranking_table.rank_runs``.
        runs: by name of the generator.
        data: where the pictures of each come from.
        folder: where to; each generator's own report is looked for in the sub-folder of its name.

    Raises:
        OutputError: the folder cannot be written.
    """
    names = [system["name"] for system in document_["systems"]]
    title = f"{len(names)} generator{'s' if len(names) > 1 else ''} on {document_['prompts']} prompts"
    settings = dumps({name: runs[name].description for name in names})
    terms = "".join(f"<dt>{words(name)}</dt><dd>{text}</dd>" for name, text in FIGURES.items())
    body = f"""<style>{_CSS}</style>
<p class="faint small">Ranking of generators</p>
<h1>{escape(title)}</h1>
<p>{escape(lead(document_))}</p>
{_table(document_["systems"], document_["by"])}
<h2>Figures and their 95 % intervals</h2>
<div class="charts">{"".join(_forests(document_["systems"]))}</div>
{_wins(document_)}
{_rates(document_["systems"])}
<h2>Same prompt, side by side</h2>
<p class="said">The prompts on which the generators differ most by {escape(document_["by"])}, with what the detector
marked. Best generator first.</p>
{"".join(_examples(names, runs, data, document_["by"])) or "<p>None.</p>"}
<h2>What the figures mean</h2>
<dl class="terms small">{terms}</dl>
<h2>Settings</h2>
<p class="small">{escape(document_["signature"])}</p>
<details><summary>Data, models and versions</summary><pre>{escape(settings)}</pre></details>"""
    return atomic_write(folder / REPORT_FILE, document(title, body))


def lead(document_: Json) -> str:
    """By what systems are ranked, on how many pictures, and what went wrong; not escaped yet."""
    by = document_["by"]
    way = "higher" if by in HIGHER_IS_BETTER else "lower"
    said = [f"Ranked by {by}, {way} is better", f"{document_['pictures']} of {document_['of']} pictures compared"]
    said += [
        f"{system['name']}: {count} {words(kind)}"
        for system in document_["systems"]
        for kind, count in {**system["errors"], **system["problems"]}.items()
    ]
    return "; ".join(said) + "."


def _table(systems: Sequence[Json], by: str) -> str:
    names = list(systems[0]["figures"])
    heads = "".join(f"<th>{words(name)}{' *' if name == by else ''}</th>" for name in names)
    rows = "".join(
        f'<tr><td class="text">{system["place"]}</td><td class="text"><a href="{quote(system["name"])}/report.html">'
        f"{escape(system['name'])}</a></td>"
        f"{''.join(_figure(system['figures'][name]) for name in names)}"
        f'<td class="text faint">{escape(system["source"])}</td></tr>'
        for system in systems
    )
    return (
        '<div class="table"><table class="numbers"><thead><tr><th class="text"></th><th class="text">generator</th>'
        f'{heads}<th class="text">source</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _figure(estimate: Mapping[str, float]) -> str:
    return f"<td>{short(estimate['value'])}<span>{short(estimate['low'])} to {short(estimate['high'])}</span></td>"


def _forests(systems: Sequence[Json]) -> Iterator[str]:
    for name in [name for name in systems[0]["figures"] if name not in VARIANTS]:
        way = "higher" if name in HIGHER_IS_BETTER else "lower"
        rows = [(system["name"], system["figures"][name]) for system in systems]
        yield forest(f"{words(name)}, {way} is better", rows, from_zero=name not in HIGHER_IS_BETTER)


def forest(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], *, from_zero: bool) -> str:
    """A dot and a bar for each row's ``value``, ``low`` and ``high``; an SVG in a figure.

    Args:
        title: plain text.
        rows: name and estimate, from the top.
        from_zero: whether the axis begins at 0; else at the least ``low``.
    """
    low = 0.0 if from_zero else min(row["low"] for _, row in rows)
    high = max(row["high"] for _, row in rows)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    scale, bottom = (_RIGHT - _LEFT) / (high - low), _TOP + _ROW * len(rows)
    parts = [
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{short(value)}</text>'
        for x, value in ((_LEFT, low), (_RIGHT, high))
    ]
    for at, (name, row) in enumerate(rows):
        y = _TOP + _ROW * (at + 0.5)
        left, middle, right = (_LEFT + (row[key] - low) * scale for key in ("low", "value", "high"))
        parts.append(
            f"<g><title>{escape(name)}: {short(row['value'])} ({short(row['low'])} to {short(row['high'])})</title>"
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(_cut(name))}</text>'
            f'<line class="band" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" r="3.5" cx="{middle:.1f}" cy="{y}"/>'
            f'<text x="{_RIGHT + 10}" y="{y + 4}">{short(row["value"])}</text></g>'
        )
    return f"""<figure><p class="small">{escape(title)}</p>
<svg viewBox="0 0 300 {bottom + 20}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>"""


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _wins(document_: Json) -> str:
    if len(document_["systems"]) < 2:
        return ""
    tables = "".join(_win_table(by, document_["orders"][by], table) for by, table in document_["wins"].items())
    return f"""<h2>Who beats whom</h2>
<p class="said">How likely the generator of the row is better than that of the column, if other prompts of the kind were
drawn (bootstrap over prompts). Below it, the share of these prompts on which its pictures are better; ties count
half.</p>
<div class="charts">{tables}</div>"""


def _win_table(by: str, names: Sequence[str], duels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    heads = "".join(f"<th>{escape(_cut(name))}</th>" for name in names)
    rows = []
    for one in names:
        cells = "".join(
            "<td></td>"
            if other == one
            else f'<td style="background:{_shade(2 * duels[one][other]["overall"] - 1)}">'
            f'{_percent(duels[one][other]["overall"])}<br><span class="faint">'
            f"{_percent(duels[one][other]['per_prompt'])}</span></td>"
            for other in names
        )
        rows.append(f'<tr><td class="text">{escape(_cut(one))}</td>{cells}</tr>')
    return (
        f'<div><h3>By {escape(by)}</h3><div class="table"><table class="numbers cells"><thead><tr><th></th>{heads}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _shade(strength: float) -> str:
    """Green for 1, red for -1, nothing for 0."""
    colour = "var(--good)" if strength > 0 else "var(--bad)"
    return f"color-mix(in srgb, {colour} {45 * abs(strength):.0f}%, transparent)"


def _rates(systems: Sequence[Json]) -> str:
    if not systems[0]["rates"]:
        return "<h2>Kinds of flaws</h2><p>No flaw was found.</p>"
    heads = "".join(f"<th>{escape(_cut(system['name']))}</th>" for system in systems)
    rows = "".join(
        f'<tr><td class="text">{escape(words(name))}</td>'
        + "".join(
            f'<td style="background:{_shade(-system["rates"][name]["value"])}">'
            f"{_percent(system['rates'][name]['value'])}<br>"
            f'<span class="faint">{_percent(system["rates"][name]["low"])} to '
            f"{_percent(system['rates'][name]['high'])}</span></td>"
            for system in systems
        )
        + "</tr>"
        for name in systems[0]["rates"]
    )
    return f"""<h2>Kinds of flaws</h2>
<p class="said">Share of the pictures with a flaw of the kind.</p>
<div class="table"><table class="numbers cells"><thead><tr><th></th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _examples(names: Sequence[str], runs: Mapping[str, Run], data: Mapping[str, DataSet], by: str) -> Iterable[str]:
    """The pictures of all generators, of the prompts on which they differ most; of equal ones the first."""
    values = np.array([_values(runs[name], by) for name in names])
    spread = np.ptp(values, axis=0)
    for index in np.argsort(-spread, kind="stable")[:SHOWN].tolist():
        if np.isnan(spread[index]):
            continue
        record = runs[names[0]].records[index]
        shown = "".join(_shown(name, runs[name].records[index], data[name], index) for name in names)
        columns = f"grid-template-columns: repeat({len(names)}, minmax(150px, {_SIDE}px))"
        caption = f'{escape(record["prompt"])} <span class="faint small">{escape(record["name"])}</span>'
        yield (f'<p class="said">{caption}</p><div class="beside" style="{columns}">{shown}</div>')


def _values(run: Run, by: str) -> list[float]:
    """What a ranking goes by, of each picture; NaN where there is none."""
    values = [np.nan] * run.samples
    for record in run.records:
        if record["error"] is None:
            analysis, score = record["answer"]["analysis"], record["answer"]["score"]
            of = {"PAR": analysis["artifact_ratio"], "HPS": score}
            severities = sum(region["severity"] for region in analysis["regions"])
            values[record["index"]] = of.get(by, severities)
    return values


def _shown(name: str, record: Json, data: DataSet, index: int) -> str:
    analysis = analysis_from_dict(record["answer"]["analysis"])
    score = record["answer"]["score"]
    said = flaw_words(analysis) + ("" if score is None else f"; HPS {short(score)}")
    try:
        image = data.load(index).image
    except InputError:
        image = None
    picture = '<div class="none">no picture</div>'
    if image is not None:
        picture = f'<img src="{data_uri(overlay(image, analysis, _SIDE))}" alt="{escape(f"{name}: {said}")}">'
    return (
        f'<figure>{picture}<figcaption class="small">{escape(name)}<br><span class="faint">{escape(said)}</span>'
        "</figcaption></figure>"
    )
