"""The page of a run: one HTML file that needs nothing else. All text from people, files and models is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from refiner.data.samples import DataSet
from refiner.errors import InputError
from refiner.evaluate.figures import Task
from refiner.evaluate.harness import Run
from refiner.evaluate.table import SHOWN, Scored, problem_lines
from refiner.evaluate.tasks import build_task
from refiner.files import Json, atomic_write, dumps
from refiner.images import load_image
from refiner.records import analysis_from_dict
from refiner.reports.overlays import flaw_words, overlay
from refiner.reports.plots import bars, histogram, number, scatter, words
from refiner.reports.result_page import data_uri, document
from refiner.types import Analysis

REPORT_FILE = "report.html"
WORST = 12
"""How many of the worst samples are shown."""
_SIDE = 280

_CSS = """
.fill { fill: var(--bar); } .fill.s0 { fill: var(--ink); opacity: .75; } .fill.s1 { fill: var(--bar); }
.dot { fill: var(--ink); opacity: .35; } .frame { fill: none; stroke: var(--rule); } .wide { grid-column: span 2; }
.numbers td { white-space: nowrap; } .numbers td:first-child { width: auto; min-width: 9em; white-space: normal; }
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 20px; }
.worst article { display: block; margin: 0; padding: 16px; } .worst .pair { gap: 10px; }
.worst .pair.one { grid-template-columns: 1fr; } .worst img { width: 100%; display: block; border-radius: 4px; }
@media (max-width: 760px) { .wide { grid-column: auto; } }
"""


def write_report(run: Run, scored: Scored, data: DataSet | None) -> Path:
    """Write ``report.html`` into the run's folder.

    Args:
        run: with its records.
        scored: its table.
        data: where the pictures of the worst samples come from; None where it is not at hand.

    Raises:
        OutputError: the folder cannot be written.
    """
    table = scored.table
    task = build_task(table["task"], table["system"], run.description["scoring"])
    title = f"{words(table['task'])} on {table['data']['specification']}"
    settings = dumps({name: run.description[name] for name in ("data", "system", "scoring", "environment")})
    body = f"""<style>{_CSS}</style>
<p class="faint small">Evaluation report</p>
<h1>{escape(title[:1].upper() + title[1:])}</h1>
<p>{_lead(table)}</p>
{_figures(table["figures"])}
<h2>Distributions</h2>
<div class="charts">{_plots(task, scored)}</div>
{_tables(table)}
<h2>Worst cases</h2>
<div class="worst">{"".join(_worst(run, task, scored, data)) or "<p>None.</p>"}</div>
{_failures(scored)}
{_problems(table, [*problem_lines(run), *scored.notes])}
<h2>Settings</h2>
<p class="small">{escape(table["signature"])}</p>
<details><summary>Data, system and versions</summary><pre>{escape(settings)}</pre></details>"""
    return atomic_write(run.folder / REPORT_FILE, document(title, body))


def _lead(table: Json) -> str:
    said = [f"{table['scored']} of {table['samples']} samples scored"]
    misses = table["misses"]
    said += [f"{count} of them as missed ({escape(kind)})" for kind, count in misses.items()]
    without = {kind: count - misses.get(kind, 0) for kind, count in table["errors"].items()}
    said += [f"{count} without figures ({escape(kind)})" for kind, count in without.items() if count]
    if table["missing"]:
        said.append(f"{table['missing']} not run yet")
    return "; ".join(said) + "."


def _figures(figures: Mapping[str, float | None]) -> str:
    cells = (
        f"<div><dt>{escape(words(name))}</dt><dd>{number(value)}{_margin(name, figures)}</dd></div>"
        for name, value in figures.items()
        if not name.endswith(("_low", "_high"))
    )
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _margin(name: str, figures: Mapping[str, float | None]) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return "" if low is None or high is None else f" <span>({number(low)} to {number(high)})</span>"


def _plots(task: Task, scored: Scored) -> str:
    columns, plots = scored.columns, task.plots
    drawn = [histogram(name, columns[name]) for name in plots.histograms if name in columns]
    drawn += [scatter(x, y, columns[x], columns[y]) for x, y in plots.scatters if x in columns and y in columns]
    rows = {name: [row.get(key) for key in plots.bars] for name, row in scored.table["categories"].items()}
    if rows and plots.bars:
        drawn.append(bars("by category", rows, plots.bars))
    return "".join(drawn) or "<p>Nothing to draw.</p>"


def _tables(table: Json) -> str:
    parts = []
    for name, title in (("groups", "By group"), ("categories", "By category")):
        if table[name]:
            parts.append(f"<h2>{title}</h2>{_grid(table[name])}")
    return "".join(parts)


def _grid(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    keys = list(dict.fromkeys(key for row in rows.values() for key in row if not key.endswith(("_low", "_high"))))
    heads = "".join(f"<th>{escape(words(key))}</th>" for key in ["", *keys])
    lines = "".join(
        f"<tr><td>{escape(words(name))}</td>{''.join(f'<td>{number(row.get(key))}</td>' for key in keys)}</tr>"
        for name, row in rows.items()
    )
    return _table(f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>")


def _table(inside: str) -> str:
    return f'<div class="table"><table class="numbers">{inside}</table></div>'


def _worst(run: Run, task: Task, scored: Scored, data: DataSet | None) -> Iterable[str]:
    """Cards of the worst samples, worst first; of equal ones the first in the data set."""
    values = scored.columns.get(task.plots.worst, np.zeros(0))
    order = np.argsort(values if task.plots.higher_is_better else -values, kind="stable")
    for at in [at for at in order.tolist() if not np.isnan(values[at])][:WORST]:
        record = run.records[int(scored.indices[at])]
        caption = f"{words(task.plots.worst)} {number(float(values[at]))}"
        yield _card(record, caption, _pictures(run.folder, record, data))


def _card(record: Json, caption: str, pictures: Sequence[tuple[str, Image.Image]]) -> str:
    shown = "".join(
        f'<figure><img src="{data_uri(image)}" alt="{escape(text)}"><figcaption class="small faint">{escape(text)}'
        f"</figcaption></figure>"
        for text, image in pictures
    )
    prompt = f'<p class="prompt">{escape(record["prompt"])}</p>' if record["prompt"] else ""
    pair = f'<div class="pair{" one" if len(pictures) == 1 else ""}">{shown}</div>' if pictures else ""
    return (
        f'<article><div class="head"><h3>{escape(record["name"])}</h3></div>{pair}'
        f'<p class="facts"><span>{escape(caption)}</span></p>{prompt}</article>'
    )


def _pictures(folder: Path, record: Json, data: DataSet | None) -> list[tuple[str, Image.Image]]:
    """What is shown of a sample: before and after, or what was said beside what is true; with their captions."""
    answer = record["answer"] or {"analysis": None}
    if "before" in answer:
        looks = [(name, answer[key]) for name, key in (("before", "before"), ("kept", "best"))]
        return [shown for name, look in looks if (shown := _seen(name, folder / look["picture"], look["analysis"]))]
    if data is None:
        return []
    try:
        image = data.load(record["index"]).image
    except InputError:
        return []
    if image is None:
        return []
    pair = [("detector", answer["analysis"]), ("truth", record["truth"]["analysis"])]
    known = [(name, analysis_from_dict(analysis)) for name, analysis in pair if analysis is not None]
    return [_marked(name, image, analysis) for name, analysis in known] or [("", overlay(image, None, _SIDE))]


def _seen(name: str, path: Path, analysis: Json) -> tuple[str, Image.Image] | None:
    try:
        return _marked(name, load_image(path), analysis_from_dict(analysis))
    except InputError:
        return None


def _marked(name: str, image: Image.Image, analysis: Analysis) -> tuple[str, Image.Image]:
    return f"{name}: {flaw_words(analysis)}", overlay(image, analysis, _SIDE)


def _failures(scored: Scored) -> str:
    if not scored.failures:
        return ""
    lines = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{escape(each.kind)}</td><td>{escape(each.detail)}</td></tr>"
        for each in scored.failures
    )
    count = sum(scored.table["errors"].values())
    more = f'<p class="small faint">The first {SHOWN} of {count}.</p>' if count > len(scored.failures) else ""
    return f"<h2>Samples that failed</h2>{_table(f'<tbody>{lines}</tbody>')}{more}"


def _problems(table: Json, lines: Sequence[str]) -> str:
    if not table["problems"]:
        return ""
    counts = ", ".join(f"{words(kind)}: {count}" for kind, count in table["problems"].items())
    listed = (
        f"<details><summary>One by one</summary><pre>{escape(chr(10).join(lines))}</pre></details>" if lines else ""
    )
    return f"<h2>Problems with the input</h2><p>{escape(counts)}</p>{listed}"
