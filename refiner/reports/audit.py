"""The report of a ranking by several detectors: one self-contained HTML file. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from markupsafe import Markup

from refiner.evaluate.audit import MEASURES
from refiner.evaluate.harness import Run
from refiner.files import Json, atomic_write, dumps
from refiner.reports.page import percent, render
from refiner.reports.plots import short, slopes
from refiner.reports.ranking import REPORT_FILE
from refiner.reports.terms import legend


def write_audit_report(document_: Json, runs: Mapping[str, Mapping[str, Run]], folder: Path) -> Path:
    """Write ``report.html``.

    Args:
        document_: from ``refiner.evaluate.audit.audit_runs``.
        runs: by id of the detector, then by name of the generator.
        folder: where to write; the page links to the report in the folder of each detector.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows = [row for row in document_["detectors"] if row["ranking"] is not None]
    count, detectors = len(rows[0]["ranking"]["systems"]), len(document_["detectors"])
    signs = _letters([row["name"] for row in document_["detectors"]])
    page = render(
        "audit.html",
        title=f"{count} generator{'s' if count > 1 else ''}, ranked by {detectors} detectors",
        letters=signs,
        plots=list(_slopes(rows, signs)) if len(rows) > 1 else [],
        measures=MEASURES,
        taus=[
            (pair["one"], pair["other"], pair["pictures"], [tau_words(pair["tau"][name]) for name in MEASURES])
            for pair in document_["agreement"]
        ],
        terms=legend([*rows[0]["ranking"]["systems"][0]["figures"], "coverage", "tau"]),
        settings=dumps({name: {each: run.description for each, run in own.items()} for name, own in runs.items()}),
        **{name: document_[name] for name in ("by", "of", "detectors", "signature")},
    )
    return atomic_write(folder / REPORT_FILE, page)


def _letters(names: Sequence[str]) -> dict[str, str]:
    """A short sign for each name: A to Z, and numbers after them."""
    return {name: ascii_uppercase[at] if at < 26 else str(at + 1) for at, name in enumerate(names)}


def tau_words(tau: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Kendall's tau, its interval, and in which share of the draws it is undefined, in words; "" for what is not."""
    value, low, high, share = (tau[key] for key in ("value", "low", "high", "undefined"))
    if value is None or low is None or high is None:
        return "undefined" if value is None else short(value), "", ""
    spread = f"{short(low)} to {short(high)}" if low < high else "the same in every draw"
    return short(value), spread, f"{percent(max(share, 0.01))} undefined" if share else ""


def _slopes(rows: Sequence[Json], signs: Mapping[str, str]) -> Iterator[Markup]:
    """The places of the generators by each detector, a chart for each measure."""
    known = [set(row["ranking"]["systems"][0]["figures"]) for row in rows]
    for measure in (measure for measure in MEASURES if all(measure in each for each in known)):
        orders = []
        for row in rows:
            values = {system["name"]: system["figures"][measure]["value"] for system in row["ranking"]["systems"]}
            order = sorted(values, key=lambda name: (values[name], name))
            orders.append([(name, 1 + sum(other < values[name] for other in values.values())) for name in order])
        yield slopes(f"places by {measure}, lower is better", [signs[row["name"]] for row in rows], orders)
