"""Measure a model of FakeXplain on a data set, or the bundled one on held-out images of the micro world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from refiner.data.samples import DataSet, Sample
from refiner.detectors import load_detector
from refiner.errors import InputError
from refiner.training.chat.eval import held_out_scores, measured, summary
from refiner.training.runs import Run


def score(folder: Path, data: DataSet, rows: Sequence[int], run: Run) -> dict[str, float]:
    """Scores of the model in a folder on rows of a data set; masks are filled boxes."""
    detector = load_detector(f"fakexplain:{folder},grounder=box", device=run.processes.device)
    return summary(list(measured(detector, _samples(data, rows))))


def _samples(data: DataSet, rows: Sequence[int]) -> Iterator[Sample]:
    for row in rows:
        try:
            yield data.load(row)
        except InputError:
            continue  # told by the training


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``held_out_scores`` of a model in a folder, with the detector's usual masks."""
    return held_out_scores(load_detector(f"fakexplain:{folder}", device="cpu"), run, count)
