"""The report of a ranking: one self-contained HTML file. All text from people, files and models is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup
from PIL import Image

from refiner.data.samples import DataSet
from refiner.errors import InputError
from refiner.evaluate.harness import Run
from refiner.evaluate.ranking import HIGHER_IS_BETTER, VARIANTS, area_of
from refiner.files import Json, atomic_write, dumps
from refiner.metrics.intervals import few_words
from refiner.records import analysis_from_dict
from refiner.reports.overlays import flaw_words, overlay
from refiner.reports.page import render
from refiner.reports.plots import forest, short, words
from refiner.reports.terms import heading, legend

REPORT_FILE: Final = "report.html"
SHOWN: Final = 6
"""Number of prompts that are shown with the images of all generators."""
_SIDE: Final = 240


def write_rank_report(document_: Json, runs: Mapping[str, Run], data: Mapping[str, DataSet], folder: Path) -> Path:
    """Write ``report.html``.

    Args:
        document_: from ``refiner.evaluate.ranking.rank_runs``.
        runs: by name of the generator.
        data: source of the images of each generator.
        folder: where to write; the page links to the report in the sub-folder of each generator.

    Raises:
        OutputError: the folder cannot be written.
    """
    names = [system["name"] for system in document_["systems"]]
    page = render(
        "ranking.html",
        title=f"{len(names)} generator{'s' if len(names) > 1 else ''} on {document_['prompts']} prompts",
        lead=lead(document_),
        plots=list(_forests(document_["systems"])),
        examples=list(_examples(names, runs, data, document_["by"])),
        terms=legend([*document_["systems"][0]["figures"], "coverage"]),
        settings=dumps({name: runs[name].description for name in names}),
        **{name: document_[name] for name in ("systems", "by", "orders", "wins", "signature")},
    )
    return atomic_write(folder / REPORT_FILE, page)


def lead(document_: Json) -> str:
    """What the ranking goes by, how many images are compared, and what went wrong; plain text."""
    by = document_["by"]
    way = "higher" if by in HIGHER_IS_BETTER else "lower"
    failed = [
        f"{system['name']}: {', '.join(f'{count} {words(kind)}' for kind, count in counts.items())}"
        for system in document_["systems"]
        if (counts := {**system["errors"], **system["problems"]})
    ]
    sentences = [
        f"Ranked by {by}, {way} is better.",
        f"{document_['pictures']} of {document_['of']} images compared.",
        f"Failed: {'; '.join(failed)}." if failed else "",
        few_words(document_["prompts"], "prompts"),
    ]
    return " ".join(filter(None, sentences))


def _forests(systems: Sequence[Json]) -> Iterator[Markup]:
    for name in [name for name in systems[0]["figures"] if name not in VARIANTS]:
        way = "higher" if name in HIGHER_IS_BETTER else "lower"
        rows = [(system["name"], system["figures"][name]) for system in systems]
        yield forest(f"{heading(name)}, {way} is better", rows, from_zero=name not in HIGHER_IS_BETTER)


def _examples(
    names: Sequence[str], runs: Mapping[str, Run], data: Mapping[str, DataSet], by: str
) -> Iterator[tuple[Json, list[tuple[str, str, Image.Image | None]]]]:
    """The images of all generators for the prompts on which they differ most; equal ones in the order of the data."""
    spread = np.ptp([values_by(runs[name], by) for name in names], axis=0)
    for index in np.argsort(-spread, kind="stable")[:SHOWN].tolist():
        if not np.isnan(spread[index]):
            shown = [_shown(name, runs[name].records[index], data[name], index) for name in names]
            yield runs[names[0]].records[index], shown


def values_by(run: Run, by: str) -> list[float]:
    """What the ranking goes by, for each image; NaN if it is not known."""
    values = [np.nan] * run.samples
    for record in run.records:
        if record["error"] is None:
            analysis, score = record["answer"]["analysis"], record["answer"]["score"]
            severities = sum(region["severity"] for region in analysis["regions"])
            value = {"PAR": area_of(analysis), "HPS": score}.get(by, severities)
            values[record["index"]] = np.nan if value is None else value
    return values


def _shown(name: str, record: Json, data: DataSet, index: int) -> tuple[str, str, Image.Image | None]:
    """Name of the generator, caption, and the image with its regions."""
    analysis = analysis_from_dict(record["answer"]["analysis"])
    score = record["answer"]["score"]
    caption = flaw_words(analysis) + ("" if score is None else f"; HPS {short(score)}")
    try:
        image = data.load(index).image
    except InputError:
        image = None
    return name, caption, None if image is None else overlay(image, analysis, _SIDE)
