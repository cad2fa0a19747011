"""A small LEGION trained by ``refiner train legion`` from files in SynthScars' layout, and how well it finds flaws.

The files are drawn images of the micro world with injected flaws. The model starts from random weights and sees only
what the reader gives: images, polygons, phrases and explanations. The test images are drawn with another seed. As a
control, the bundled detector, which also learnt from the micro world's own labels, is measured on the same images.

Run with ``make bench`` or ``python tests/benchmarks/training.py [--images N] [--config FILE] [--out DIR] [--json]``.
With ``--out``, an interrupted run is continued. The full training takes more than an hour on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.synthscars_files import write_synthscars

from refiner.cli import main as refiner
from refiner.metrics.intervals import bootstrap_interval

TRAIN_SEED, TEST_SEED = 1, 9
FIGURES = ("IoU", "PixF1", "miou", "f1")


def files(folder: Path, count: int, seed: int) -> Path:
    """A split of ``count`` images; it is kept if it is complete."""
    if not (folder / "annotations" / f"{folder.name}.json").exists():
        write_synthscars(folder, count, seed=seed)
    return folder


def found(detector: str, test: Path, out: Path) -> dict[str, Any]:
    """The figures of a detector on the test images; the pooled F1 with a bootstrap 95 % interval over the images."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = refiner(
            [
                *("evaluate", "localization", "--data", f"synthscars:{test}", "--detector", detector),
                *("--out", str(out), "--json", *(("--resume",) if out.exists() else ())),
            ]
        )
    if code > 1:  # 1: some answers cannot be read; they count as misses
        raise SystemExit(code)
    figures = json.loads(said.getvalue())["figures"]
    with (out / "samples.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    tp, fp, fn = (np.array([float(row[name]) for row in rows]) for name in ("tp", "fp", "fn"))
    interval = bootstrap_interval(tp, fp, fn, statistic=pooled_f1, resamples=5000)
    return {name: round(figures[name], 4) for name in FIGURES} | {"PixF1_ci95": [round(end, 4) for end in interval]}


def pooled_f1(tp: Any, fp: Any, fn: Any, axis: int = 0) -> Any:
    """F1 of the pixels of all images together."""
    both = 2 * tp.sum(axis=axis)
    return both / (both + fp.sum(axis=axis) + fn.sum(axis=axis))


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, and evaluate the trained and the bundled model."""
    train = files(folder / "train", options.images, TRAIN_SEED)
    test = files(folder / "test", options.test, TEST_SEED)
    run = folder / "run"
    arguments = ["train", "legion", "--data", f"synthscars:{train}", "--device", "cpu", "--out", str(run)]
    for config in ("micro", *options.config):
        arguments += ["--config", config]
    began = time.process_time()
    if code := refiner([*arguments, *(["--resume"] if (run / "config.json").exists() else [])]):
        raise SystemExit(code)
    return {
        "images": options.images,
        "test_images": options.test,
        "processor_minutes": round((time.process_time() - began) / 60, 1),
        "trained": found(str(run / "model"), test, folder / "evaluation"),
        "bundled": found("micro", test, folder / "evaluation-bundled"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images to learn from (10000)")
    parser.add_argument("--test", type=int, default=300, help="images to measure on (300)")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="JSON of settings to change")
    parser.add_argument("--out", type=Path, help="keep files and run here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        document = measured(options, options.out or Path(scratch))
    print(json.dumps(document, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
