"""Generators ranked by several detectors, and how far the detectors agree.

The images of all generators are made once. Each detector has a folder of its own below ``DETECTORS``, with the same
files as a ranking by that detector alone. Two detectors are compared on the images that both could analyse for every
generator, by Kendall's tau-b (``refiner.metrics.kendall``). A detector that analysed no image of every generator has
an error in place of a ranking; the others are not affected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Final

from refiner.coverage import Coverage
from refiner.data.samples import digest
from refiner.errors import ConfigError, InputError
from refiner.evaluate.harness import Run
from refiner.evaluate.ranking import (
    RANK_CSV,
    RANK_FILE,
    WINS_CSV,
    Answers,
    Inspected,
    both_covered,
    rank_rows,
    rank_runs,
    rankings_of,
    read_answers,
    win_rows,
)
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_write, dumps
from refiner.metrics.kendall import SIGNATURE, Agreement, compare_rankings

DETECTORS: Final = "detectors"
"""Sub-folder of the ranking that holds a folder for each detector."""
AGREEMENT_CSV: Final = "agreement.csv"
MEASURES: Final = ("CAP", "MAI", "AF", "PAR")
"""Figures that depend on the detector."""
ORDERS: Final = ("CAP", "PAR")
"""Those that can decide the order."""
_PLAIN: Final = re.compile(r"\w[\w.+@-]{0,63}")


def detector_folder(name: str) -> str:
    """The folder of a detector, by its id: ``detectors/ID`` if the id is a plain name."""
    if not _PLAIN.fullmatch(name) or name.endswith("."):
        name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:60]}-{digest([name])[:8]}"
    return f"{DETECTORS}/{name}"


def audit_runs(runs: Mapping[str, Mapping[str, Run]], prompts_of: Mapping[str, str], *, by: str = "CAP") -> Json:
    """Rank generators by the records of several detectors, and compare the rankings.

    Args:
        runs: by id of the detector, then by name of the generator; all of one prompt set.
        prompts_of: name of each image -> name of its prompt.
        by: one of ``ORDERS``.

    Returns:
        ``by``; ``of`` all images; ``detectors``, each with ``name``, ``folder``, ``ranking`` (from ``rank_runs``) and
        ``error`` (one of the two is None); ``agreement`` of each pair of detectors, with ``one``, ``other``, the number
        of ``prompts`` and ``pictures`` that are compared, the ``coverage`` of both, and ``tau`` by ``MEASURES``, each
        with ``value``, ``low``, ``high`` (None if undefined) and ``undefined`` (share of the draws); ``signature``.

    Raises:
        ConfigError: the order does not depend on the detector.
        InputError: no detector could rank the generators.
    """
    if by not in ORDERS:
        raise ConfigError(f"Expected to rank by {' or '.join(ORDERS)} with several detectors, got {by!r}: name one.")
    answers = {
        detector: {name: read_answers(run) for name, run in of_detector.items()}
        for detector, of_detector in runs.items()
    }
    detectors = []
    for name, of_detector in runs.items():
        row: Json = {"name": name, "folder": detector_folder(name), "ranking": None, "error": None}
        try:
            row["ranking"] = rank_runs(of_detector, prompts_of, by=by, answers=answers[name])
        except InputError as error:
            row["error"] = str(error)
        detectors.append(row)
    if all(row["ranking"] is None for row in detectors):
        raise InputError("; ".join(f"{row['name']}: {row['error'].rstrip('.')}" for row in detectors) + ".")
    return {
        "task": "rank",
        "by": by,
        "of": next(run.samples for of_detector in runs.values() for run in of_detector.values()),
        "detectors": detectors,
        "agreement": [
            _compared(one, other, answers[one], answers[other], prompts_of) for one, other in combinations(answers, 2)
        ],
        "signature": SIGNATURE,
    }


def _compared(
    one: str, other: str, ones: Mapping[str, Answers], others: Mapping[str, Answers], prompts_of: Mapping[str, str]
) -> Json:
    """The agreement of two detectors, by the answers about each generator."""
    sides = [*ones.values(), *others.values()]
    images = sorted(set(sides[0].looks).intersection(*(each.looks for each in sides)))
    tau = dict.fromkeys(MEASURES, Agreement(None, None, None, 1.0))
    prompts = len({prompts_of[image] for image in images})
    placed = [image for image in images if all(each.looks[image].area is not None for each in sides)]
    for by, compared in (("CAP", images), ("PAR", placed)):
        if compared:
            first, second = (rankings_of(_chosen(each, compared), prompts_of)[by] for each in (ones, others))
            tau |= {name: each for name, each in compare_rankings(first, second).items() if name in tau}
    return {
        "one": one,
        "other": other,
        "prompts": prompts,
        "pictures": len(images),
        "coverage": [Coverage.total(each.coverage for each in side.values()).row() for side in (ones, others)],
        "tau": {name: each._asdict() for name, each in tau.items()},
    }


def _chosen(answers: Mapping[str, Answers], images: list[str]) -> dict[str, dict[str, Inspected]]:
    return {name: {image: each.looks[image] for image in images} for name, each in answers.items()}


def write_audit(document: Json, folder: Path) -> None:
    """Write ``rank.json``; ``rank.csv`` and ``wins.csv`` with the detector of each row; and ``agreement.csv``.

    Raises:
        OutputError: the folder cannot be written.
    """
    rankings = {row["name"]: row["ranking"] for row in document["detectors"] if row["ranking"] is not None}
    ranks, wins = (
        [{"detector": name, **row} for name, ranking in rankings.items() for row in rows(ranking)]
        for rows in (rank_rows, win_rows)
    )
    taus = [
        {
            **{key: pair[key] for key in ("one", "other", "prompts", "pictures")},
            "by": name,
            **tau,
            **both_covered(*pair["coverage"]),
        }
        for pair in document["agreement"]
        for name, tau in pair["tau"].items()
    ]
    atomic_write(folder / RANK_FILE, dumps(document) + "\n")
    atomic_write(folder / RANK_CSV, csv_text(ranks))
    atomic_write(folder / WINS_CSV, csv_text(wins, ["detector", "by", "one", "other", "overall", "per_prompt"]))
    atomic_write(folder / AGREEMENT_CSV, csv_text(taus))
