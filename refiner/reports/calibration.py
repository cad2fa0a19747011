"""The report of a calibration: one self-contained HTML file with a reliability diagram. All text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from refiner.evaluate.calibration import Calibrated
from refiner.files import Json, atomic_write
from refiner.metrics.calibration import reliability
from refiner.reports.page import render
from refiner.reports.plots import number, short
from refiner.reports.reliability import reliability_panels, save_reliability
from refiner.reports.terms import legend

REPORT_FILE: Final = "report.html"
PLOT_FILE: Final = "reliability.png"
_TERMS: Final = (
    "threshold", "false_positive_rate", "recall", "abstention_band", "share_in_the_band", "wrong_verdicts", "map",
    "log_loss", "brier", "calibration_error",
)  # fmt: skip
"""The names of the rows, as ``refiner.reports.terms`` knows them."""


def write_calibration_report(found: Calibrated, folder: Path) -> Path:
    """Write ``report.html`` and ``reliability.png``; returns the path of the first.

    Raises:
        OutputError: the folder cannot be written.
    """
    bins = [reliability(each, found.fake) for each in (found.scores, found.fitted.held_out)]
    save_reliability(bins[0], bins[1], folder / PLOT_FILE)
    page = render(
        "calibration.html",
        title=f"Calibration of {found.calibration.detector}",
        data=found.calibration.data,
        rows=calibration_rows(found.calibration.document()),
        panels=reliability_panels(bins[0], bins[1]),
        failures=found.failures,
        terms=legend(_TERMS),
    )
    return atomic_write(folder / REPORT_FILE, page)


def calibration_rows(document: Json) -> list[tuple[str, str, str]]:
    """The figures of a calibration, for people: name, value and 95 % interval ("" if there is none)."""
    point, abstention, figures = (document[name] for name in ("operating_point", "abstention", "figures"))
    band = abstention["band"]
    measures = ("log_loss", "brier", "calibration_error")
    return [
        ("threshold", number(point["threshold"]), ""),
        ("false-positive rate", _share(point["false_positives"], point["real"]), _interval(point["interval"])),
        ("recall", _share(point["found"], point["generated"]), _interval(point["recall_interval"])),
        ("abstention band", "none" if band is None else f"{number(band[0])} to {number(band[1])}", ""),
        ("share in the band", number(figures["abstained"]), ""),
        ("wrong verdicts", number(figures["wrong"]), ""),
        ("wrong verdicts outside the band", number(figures["wrong_outside_band"]), ""),
        ("map", document["map"]["method"], ""),
        *((f"{name.replace('_', ' ')}, before", number(figures[f"{name}_before"]), "") for name in measures),
        *((f"{name.replace('_', ' ')}, after", number(figures[name]), "") for name in measures),
    ]


def _share(count: int, total: int) -> str:
    return f"{short(count / total)} ({count} of {total})"


def _interval(ends: tuple[float, float]) -> str:
    return f"{short(ends[0])} to {short(ends[1])}"
