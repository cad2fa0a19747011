"""The report of an evaluation: one self-contained HTML file. All text from people, files and models is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from refiner.coverage import Coverage
from refiner.data.samples import DataSet
from refiner.errors import InputError
from refiner.evaluate.figures import Task
from refiner.evaluate.harness import Run
from refiner.evaluate.table import Scored, problem_lines
from refiner.evaluate.tasks import build_task
from refiner.files import Json, atomic_write, dumps
from refiner.images import load_image
from refiner.metrics.intervals import few_words
from refiner.records import analysis_from_dict
from refiner.reports.overlays import flaw_words, overlay
from refiner.reports.page import covered, render
from refiner.reports.plots import bars, histogram, number, scatter, words
from refiner.reports.terms import heading, legend
from refiner.types import Analysis, Step

REPORT_FILE = "report.html"
WORST = 12
"""Number of worst samples that are shown."""
_SIDE = 280


def write_report(run: Run, scored: Scored, data: DataSet | None) -> Path:
    """Write ``report.html`` into the folder of the run.

    Args:
        run: with its records.
        scored: its table.
        data: source of the images of the worst samples; None if it is not available.

    Raises:
        OutputError: the folder cannot be written.
    """
    table = scored.table
    task = build_task(table["task"], table["system"], run.description["scoring"])
    page = render(
        "evaluation.html",
        title=f"{words(table['task'])} on {table['data']['specification']}",
        lead=lead(table),
        table=table,
        plots=[plot for plot in _plots(task, scored) if plot],
        grids=list(_grids(table)),
        terms=legend(_names(task, scored)),
        worst=list(_worst(run, task, scored, data)),
        failures=scored.failures,
        failed=sum(table["errors"].values()),
        problems=", ".join(f"{words(kind)}: {count}" for kind, count in table["problems"].items()),
        problem_lines=[*problem_lines(run), *scored.notes],
        settings=dumps({name: run.description[name] for name in ("data", "system", "scoring", "environment")}),
    )
    return atomic_write(run.folder / REPORT_FILE, page)


def lead(table: Json) -> str:
    """How many samples were scored, what became of the others, and the coverage, in two sentences."""
    parts = [f"{table['scored']} of {table['samples']} samples scored"]
    misses = table["misses"]
    parts += [f"{count} of them as missed ({kind})" for kind, count in misses.items()]
    without = {kind: count - misses.get(kind, 0) for kind, count in table["errors"].items()}
    parts += [f"{count} without figures ({kind})" for kind, count in without.items() if count]
    parts += [f"{table['missing']} not run yet"] if table["missing"] else []
    few = few_words(table["scored"], "samples")
    return " ".join(filter(None, [f"{'; '.join(parts)}.", f"{Coverage(**table['coverage']).words()}.", few]))


def _plots(task: Task, scored: Scored) -> Iterator[Markup]:
    columns, plots = scored.columns, task.plots
    yield from (histogram(heading(name), columns[name]) for name in plots.histograms if name in columns)
    pairs = [pair for pair in plots.scatters if all(name in columns for name in pair)]
    yield from (scatter(heading(x), heading(y), columns[x], columns[y]) for x, y in pairs)
    rows = {name: [row.get(key) for key in plots.bars] for name, row in scored.table["categories"].items()}
    if rows and plots.bars:
        yield bars("by category", rows, [heading(name) for name in plots.bars])


def _names(task: Task, scored: Scored) -> list[str]:
    """The names of all figures and columns on the page."""
    table, plots = scored.table, task.plots
    tables = [table["figures"], *table["groups"].values(), *table["categories"].values()]
    drawn = [*plots.histograms, *(name for pair in plots.scatters for name in pair), plots.worst]
    names = [name for row in tables for name in row] + [name for name in drawn if name in scored.columns]
    return [name for name in names if not name.endswith(("_low", "_high"))] + ["coverage"]


def _grids(table: Json) -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """Heading, columns and rows of cells of each table; the last column is the coverage."""
    for name, title in (("groups", "By group"), ("categories", "By category")):
        if rows := table[name]:
            known = dict.fromkeys(key for row in rows.values() for key in row if not key.endswith(("_low", "_high")))
            keys = [key for key in known if key != "coverage"]
            cells = {each: [number(row.get(key)) for key in keys] for each, row in rows.items()}
            for each, row in rows.items():
                cells[each].append(covered(row.get("coverage", table["coverage"])))
            yield title, [*keys, "coverage"], cells


def _worst(
    run: Run, task: Task, scored: Scored, data: DataSet | None
) -> Iterator[tuple[Json, str, list[tuple[str, Image.Image]], list[tuple[str, tuple[Step, ...]]]]]:
    """Record, caption, images and traces of the worst samples, worst first; equal ones in the order of the data set."""
    values = scored.columns.get(task.plots.worst, np.zeros(0))
    order = np.argsort(values if task.plots.higher_is_better else -values, kind="stable")
    for at in [at for at in order.tolist() if not np.isnan(values[at])][:WORST]:
        record = run.records[int(scored.indices[at])]
        caption = f"{heading(task.plots.worst)} {number(float(values[at]))}"
        yield record, caption, _pictures(run.folder, record, data), list(_traces(record))


def _pictures(folder: Path, record: Json, data: DataSet | None) -> list[tuple[str, Image.Image]]:
    """Images of a sample with captions: before and after, or the found flaws beside the true ones."""
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


def _traces(record: Json) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """The traces of the detector's analyses of a sample that have one, by what they are of; "" if there is just one."""
    answer = record["answer"] or {}
    looks = [("", answer)] if "before" not in answer else [("before", answer["before"]), ("kept", answer["best"])]
    for name, look in looks:
        if look.get("analysis") and (trace := analysis_from_dict(look["analysis"]).trace):
            yield name, trace


def _seen(name: str, path: Path, analysis: Json) -> tuple[str, Image.Image] | None:
    try:
        return _marked(name, load_image(path), analysis_from_dict(analysis))
    except InputError:
        return None


def _marked(name: str, image: Image.Image, analysis: Analysis) -> tuple[str, Image.Image]:
    return f"{name}: {flaw_words(analysis)}", overlay(image, analysis, _SIDE)
