"""Real or generated: X-AIGD's artifact judgment (AJ) and FakeXplain's accuracy, from verdicts. Positive = generated.

X-AIGD reports balanced accuracy (as "Acc"), precision, recall and F1 (arXiv 2601.19430, section on the AJ task). It
does not state which class is positive or the threshold; "generated" and 0.5 are our reading.
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
from refiner.metrics.counts import Hits, ratio
from refiner.reading import shown

VERSION = 1
"""Increases when the same input can give other numbers."""
DEFAULT_THRESHOLD = 0.5

NAME_COLUMNS: Final = ("image", "file", "filename", "name", "path", "id", "uid")
TRUTH_COLUMNS: Final = ("label", "truth", "target", "y_true", "ground_truth", "gt", "is_fake", "is_generated")
VERDICT_COLUMNS: Final = ("prediction", "predicted", "pred", "y_pred", "verdict")
SCORE_COLUMNS: Final = ("score", "fake_probability", "probability", "prob", "y_score", "fake_score", "fake_prob")
RATIO_COLUMNS: Final = ("par", "artifact_ratio")
_WORDS = dict.fromkeys(("1", "1.0", "fake", "generated", "synthetic", "ai", "true", "yes"), True)
_WORDS |= dict.fromkeys(("0", "0.0", "real", "natural", "authentic", "false", "no"), False)


@dataclass(frozen=True, kw_only=True)
class BinaryCounts(Hits):
    """Images by truth and verdict. tp: generated, judged generated; fp: real, judged generated; and so on."""

    tn: int = 0

    @classmethod
    def of(cls, fake: bool, judged: bool) -> BinaryCounts:
        """The counts of one image: whether it is generated, and whether it was judged generated."""
        return cls(**{("t" if fake == judged else "f") + ("p" if judged else "n"): 1})

    @property
    def images(self) -> int:
        """Number of images."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        """Share of right verdicts, in [0, 1]; 0 without images."""
        return ratio(self.tp + self.tn, self.images)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares of right verdicts on generated and on real images; None if one kind is missing."""
        fakes, reals = self.tp + self.fn, self.tn + self.fp
        return (self.tp / fakes + self.tn / reals) / 2 if fakes and reals else None

    @property
    def f1(self) -> float:
        """In [0, 1]; 0 for 0 / 0."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def document(self) -> Json:
        """Counts and figures, ready for JSON."""
        names = ("balanced_accuracy", "accuracy", "precision", "recall", "f1", "tp", "fp", "tn", "fn", "images")
        return {name: getattr(self, name) for name in names}


class _Columns(NamedTuple):
    """The columns of the file."""

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
                f"{' or '.join((*VERDICT_COLUMNS, *SCORE_COLUMNS))} in {path!r}, got "
                f"{shown(', '.join(row))}: rename them."
            )
        name, generator = first(NAME_COLUMNS), first(("generator",))
        return cls(truth, decision, verdict is not None, name, generator, first(RATIO_COLUMNS))

    def name_of(self, row: Mapping[str, str]) -> str:
        parts = (row[column] for column in (self.generator, self.name) if column is not None and self.name is not None)
        return "/".join(part for part in parts if part)

    def truth_of(self, row: Mapping[str, str]) -> bool | None:
        return _WORDS.get(row[self.truth].strip().lower())


def _are_pairs(path: str) -> bool:
    """Whether more than half of the names stand at a real and at a generated image."""
    truths: dict[str, list[bool | None]] = {}
    columns: _Columns | None = None
    for _, row in read_csv(path, (), "verdicts"):
        columns = columns or _Columns.of(row, path)
        truths.setdefault(columns.name_of(row), []).append(columns.truth_of(row))
    pairs = sum(bool(name) and {True, False} <= set(own) for name, own in truths.items())
    return 2 * pairs > len(truths)


def evaluate_aj(predictions: str | Path, *, threshold: float = DEFAULT_THRESHOLD) -> Json:
    """Score a CSV of verdicts: ``refiner evaluate aj``.

    The file has a header and one row per image. The truth is in ``label`` (or another of ``TRUTH_COLUMNS``): 1 or
    ``fake`` for generated, 0 or ``real`` for real. Note that LEGION's own files use the opposite numbers. The verdict
    is in ``prediction`` (``VERDICT_COLUMNS``: the same words, or a probability), else in ``score`` (``SCORE_COLUMNS``),
    the probability in [0, 1] that the image is generated. A name (``NAME_COLUMNS``, after ``generator`` if there is
    one) identifies repeated images. If most names stand at a real and at a generated image, they are names of pairs: a
    real image is then another one than the generated image of its name. ``par`` (``RATIO_COLUMNS``) is the share of
    flawed pixels in the truth. If it is there, generated images with PAR > 0 and with PAR = 0 are also scored
    separately, each against all real images.

    Args:
        predictions: the file.
        threshold: a probability above it means generated; in [0, 1).

    Returns:
        Ready for JSON: ``balanced_accuracy`` (None if one kind is missing), ``accuracy``, ``precision``, ``recall``,
        ``f1``, the four counts, ``images``, ``by_artifact_ratio`` or None, ``problems`` (the number of omitted rows by
        kind), ``problem_list`` in words, ``signature``.

    Raises:
        ConfigError: the threshold is out of its range.
        InputError: the file is missing, is not CSV, lacks a column or has no usable row.
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"Expected a threshold in [0, 1), got {threshold!r}: name a probability.")
    path = str(predictions)
    problems: list[Problem] = []
    groups: dict[str, BinaryCounts] = {}
    columns: _Columns | None = None
    seen: set[tuple[str, bool]] = set()
    paired = _are_pairs(path)
    for number, row in read_csv(path, (), "verdicts"):
        columns = columns or _Columns.of(row, path)
        name = columns.name_of(row)
        found = _read_row(row, columns, threshold)
        identity = name, paired and columns.truth_of(row) is False
        if name and identity in seen:
            found = _Fault("duplicate_image", "an earlier row has the same name; the first row counts")
        if isinstance(found, _Fault):
            problems.append(Problem(found.kind, path, f"line {number}" + (f", {name}" if name else ""), found.detail))
            continue
        seen.add(identity)
        group, counts = found
        groups[group] = groups.get(group, BinaryCounts()) + counts
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


def _read_row(row: Mapping[str, str], columns: _Columns, threshold: float) -> tuple[str, BinaryCounts] | _Fault:
    """Group and counts of a row. The group is ``real``, or for generated images ``fake``, ``PAR>0`` or ``PAR=0``."""
    truth = columns.truth_of(row)
    if truth is None:
        return _Fault("bad_label", f"expected 1 or fake, 0 or real; got {row[columns.truth]!r}")
    text = row[columns.decision].strip().lower()
    judged = _WORDS.get(text) if columns.is_verdict else None
    if judged is None:
        score = _number(text)
        if math.isnan(score):
            return _Fault("nan_score", f"expected a number, got {row[columns.decision]!r}")
        if not 0 <= score <= 1:
            return _Fault("bad_score", f"expected a probability in [0, 1], got {row[columns.decision]!r}")
        judged = score > threshold
    group = "fake" if truth else "real"
    if truth and columns.par is not None:
        par = _number(row[columns.par])
        if not 0 <= par <= 1:
            return _Fault("bad_par", f"expected a share in [0, 1], got {row[columns.par]!r}")
        group = "PAR>0" if par > 0 else "PAR=0"
    return group, BinaryCounts.of(truth, judged)


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
