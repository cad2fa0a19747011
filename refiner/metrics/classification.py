"""Real or generated: X-AIGD's artifact judgment (AJ) and FakeXplain's accuracy, from verdicts. Positive = generated.

X-AIGD reports balanced accuracy (as "Acc"), precision, recall and F1 (arXiv 2601.19430, section on the AJ task); the
class that counts as positive, and the threshold 0.5, are not stated there and are our reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from refiner.data.problems import Problem, count_problems
from refiner.data.tables import read_csv
from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.metrics.localization import ratio

VERSION = 1
"""Grows when equal input may give other numbers."""
DEFAULT_THRESHOLD = 0.5

NAME_COLUMNS: Final = ("image", "file", "filename", "name", "path", "id", "uid")
TRUTH_COLUMNS: Final = ("label", "truth", "target", "y_true", "ground_truth", "gt", "is_fake", "is_generated")
VERDICT_COLUMNS: Final = ("prediction", "predicted", "pred", "y_pred", "verdict")
SCORE_COLUMNS: Final = ("score", "fake_probability", "probability", "prob", "y_score", "fake_score", "fake_prob")
RATIO_COLUMNS: Final = ("par", "artifact_ratio")
_WORDS = dict.fromkeys(("1", "1.0", "fake", "generated", "synthetic", "ai", "true", "yes"), True)
_WORDS |= dict.fromkeys(("0", "0.0", "real", "natural", "authentic", "false", "no"), False)


@dataclass(frozen=True, kw_only=True)
class BinaryCounts:
    """Images by what they are and what was said of them; adds up over shards."""

    tp: int = 0
    """Generated, judged generated."""
    fp: int = 0
    """Real, judged generated."""
    tn: int = 0
    """Real, judged real."""
    fn: int = 0
    """Generated, judged real."""

    def __add__(self, other: BinaryCounts) -> BinaryCounts:
        return BinaryCounts(tp=self.tp + other.tp, fp=self.fp + other.fp, tn=self.tn + other.tn, fn=self.fn + other.fn)

    @property
    def images(self) -> int:
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        """Share of right verdicts, in [0, 1]; 0 without images."""
        return ratio(self.tp + self.tn, self.images)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares of right verdicts on generated and on real images; None where one kind is missing."""
        fakes, reals = self.tp + self.fn, self.tn + self.fp
        return (self.tp / fakes + self.tn / reals) / 2 if fakes and reals else None

    @property
    def precision(self) -> float:
        """In [0, 1]; 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """In [0, 1]; 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """In [0, 1]; 0 for 0 / 0."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def document(self) -> Json:
        """Counts and figures, ready for JSON."""
        names = ("balanced_accuracy", "accuracy", "precision", "recall", "f1", "tp", "fp", "tn", "fn", "images")
        return {name: getattr(self, name) for name in names}


def count_verdicts(truth: Sequence[bool], judged: Sequence[bool]) -> BinaryCounts:
    """Compare verdicts with what the images are.

    Args:
        truth: for each image whether it is generated.
        judged: for each image whether it was judged so.

    Raises:
        ConfigError: not as many verdicts as images.
    """
    if len(truth) != len(judged):
        raise ConfigError(f"Expected a verdict for each of {len(truth)} images, got {len(judged)}: give one for each.")
    pairs = [(bool(is_fake), bool(said)) for is_fake, said in zip(truth, judged, strict=True)]
    return BinaryCounts(
        tp=pairs.count((True, True)),
        fp=pairs.count((False, True)),
        tn=pairs.count((False, False)),
        fn=pairs.count((True, False)),
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which columns of the file hold what."""

    truth: str
    decision: str
    is_verdict: bool
    name: str | None
    generator: str | None
    par: str | None

    @classmethod
    def of(cls, row: Mapping[str, str], path: str) -> _Columns:
        by_name = {column.strip().lower(): column for column in row}

        def first(names: Sequence[str]) -> str | None:
            return next((by_name[name] for name in names if name in by_name), None)

        truth, verdict, score = first(TRUTH_COLUMNS), first(VERDICT_COLUMNS), first(SCORE_COLUMNS)
        decision = verdict or score
        if truth is None or decision is None:
            raise InputError(
                f"Expected a column {' or '.join(TRUTH_COLUMNS)} and a column "
                f"{' or '.join((*VERDICT_COLUMNS, *SCORE_COLUMNS))} in {path!r}, got {', '.join(row)}: rename them."
            )
        return cls(
            truth=truth,
            decision=decision,
            is_verdict=verdict is not None,
            name=first(NAME_COLUMNS),
            generator=first(("generator",)),
            par=first(RATIO_COLUMNS),
        )

    def name_of(self, row: Mapping[str, str]) -> str:
        parts = (row[column] for column in (self.generator, self.name) if column is not None and self.name is not None)
        return "/".join(part for part in parts if part)


def evaluate_aj(predictions: str | Path, *, threshold: float = DEFAULT_THRESHOLD) -> Json:
    """Score a CSV of verdicts: ``refiner evaluate aj``.

    One row an image, with a header. What the image is: ``label`` (or another of ``TRUTH_COLUMNS``), 1 or ``fake``
    for generated, 0 or ``real`` for real; mind that LEGION's own files have it the other way round. What was said of
    it: ``prediction`` (``VERDICT_COLUMNS``: the same words, or a probability), else ``score`` (``SCORE_COLUMNS``),
    the probability in [0, 1] that it is generated. A name (``NAME_COLUMNS``, after ``generator`` where that is there)
    tells repeated images. ``par`` (``RATIO_COLUMNS``) is the truth's share of flawed pixels: where it is there, the
    generated images with PAR > 0 and those with PAR = 0 are also compared apart, each against all real ones.

    Args:
        predictions: the file.
        threshold: a probability above it says generated; in [0, 1).

    Returns:
        Ready for JSON: ``balanced_accuracy`` (None where one kind is missing), ``accuracy``, ``precision``,
        ``recall``, ``f1``, the four counts, ``images``, ``by_artifact_ratio`` or None, ``problems`` (how many rows of
        each kind were left out), ``problem_list`` in words, ``signature``.

    Raises:
        ConfigError: the threshold is out of its range.
        InputError: the file is missing, is no CSV, lacks a column or has no usable row.
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"Expected a threshold in [0, 1), got {threshold!r}: name a probability.")
    path = str(predictions)
    problems: list[Problem] = []
    groups: dict[str, BinaryCounts] = {}
    columns: _Columns | None = None
    seen: set[str] = set()
    for number, row in read_csv(path, (), "verdicts"):
        columns = columns or _Columns.of(row, path)
        name = columns.name_of(row)
        found = _read_row(row, columns, threshold)
        if name and name in seen:
            found = _Fault("duplicate_image", "its name was there before; the first row counts")
        if isinstance(found, _Fault):
            problems.append(Problem(found.kind, path, f"line {number}" + (f", {name}" if name else ""), found.detail))
            continue
        seen.add(name)
        groups[found.group] = groups.get(found.group, BinaryCounts()) + found.counts
    if columns is None or not groups:
        raise InputError(f"Expected rows with verdicts in {path!r}, got {len(problems)} unusable ones: check the file.")
    decision = "verdict" if columns.is_verdict else f"score>{threshold:g}"
    return sum(groups.values(), BinaryCounts()).document() | {
        "by_artifact_ratio": None if columns.par is None else _by_artifact_ratio(groups),
        "problems": count_problems(problems),
        "problem_list": list(map(str, problems)),
        "signature": f"aj|version={VERSION}|decision={decision}|positive=fake|empty=0",
    }


class _Fault(NamedTuple):
    kind: str
    detail: str


class _Judged(NamedTuple):
    group: str
    """``real``, or for generated images ``fake``, ``PAR>0`` or ``PAR=0``."""
    counts: BinaryCounts


def _read_row(row: Mapping[str, str], columns: _Columns, threshold: float) -> _Judged | _Fault:
    truth = _WORDS.get(row[columns.truth].strip().lower())
    if truth is None:
        return _Fault("bad_label", f"expected 1 or fake, 0 or real; got {row[columns.truth]!r}")
    text = row[columns.decision].strip().lower()
    said = _WORDS.get(text) if columns.is_verdict else None
    if said is None:
        score = _number(text)
        if math.isnan(score):
            return _Fault("nan_score", f"expected a number, got {row[columns.decision]!r}")
        if not 0 <= score <= 1:
            return _Fault("bad_score", f"expected a probability in [0, 1], got {row[columns.decision]!r}")
        said = score > threshold
    group = "fake" if truth else "real"
    if truth and columns.par is not None:
        par = _number(row[columns.par])
        if not 0 <= par <= 1:
            return _Fault("bad_par", f"expected a share in [0, 1], got {row[columns.par]!r}")
        group = "PAR>0" if par > 0 else "PAR=0"
    return _Judged(group, count_verdicts([truth], [said]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _by_artifact_ratio(groups: Mapping[str, BinaryCounts]) -> Json:
    real = groups.get("real", BinaryCounts())
    fakes = {name: groups.get(name, BinaryCounts()) for name in ("PAR>0", "PAR=0")}
    return {
        name: {
            "images": counts.images,
            "recall": counts.recall,
            "balanced_accuracy": (counts + real).balanced_accuracy,
        }
        for name, counts in fakes.items()
    }
