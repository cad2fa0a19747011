"""Calibration: labelled images of a data set, the detector's scores of them, and the fit.

The records are those of an ordinary run of the task ``detection``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from refiner.calibration import Calibration, Scores
from refiner.data.problems import Problem
from refiner.data.samples import DataSet, Sample, polygon_rule
from refiner.errors import ConfigError, InputError, RefinerError
from refiner.evaluate.harness import Answer, Run
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import Failure
from refiner.files import Json
from refiner.ledger import Ledger
from refiner.metrics.calibration import Fitted, Labels, brier, calibration_error, fit, log_loss


class Labelled:
    """Some samples of a data set, in its order.

    Args:
        data: the data set.
        indices: numbers of the samples there, ascending.
        problems: those of the data set, and of the samples that were left out.
    """

    def __init__(self, data: DataSet, indices: Sequence[int], problems: list[Problem]) -> None:
        self.data, self.indices, self.problems = data, tuple(indices), problems
        self.names = tuple(data.names[index] for index in self.indices)
        self.polygons = polygon_rule(data)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        return self.data.load(self.indices[index])


class Drawn(NamedTuple):
    """The labelled images that were drawn."""

    data: Labelled
    real: int
    generated: int


def draw(data: DataSet, labels: int, seed: int) -> Drawn:
    """Draw labelled images: half of them generated, or as many as there are, the others real; the same for a seed.

    Samples are read in a random order until there are enough. One that cannot be read, or does not say whether it is
    generated, is left out and is a problem.

    Args:
        data: the data set.
        labels: most images.
        seed: of the order.
    """
    wanted = {False: labels - labels // 2, True: labels // 2}
    seen: dict[bool, list[int]] = {False: [], True: []}
    problems, unlabelled = list(data.problems), 0
    for index in np.random.default_rng(seed).permutation(len(data.names)).tolist():
        if all(len(seen[kind]) >= count for kind, count in wanted.items()):
            break
        try:
            fake = data.load(index).fake
        except InputError as error:
            problems.append(Problem("unreadable", data.names[index], "", str(error)))
            continue
        if fake is None:
            unlabelled += 1
        else:
            seen[fake].append(index)
    if unlabelled:
        detail = f"{unlabelled} samples do not say whether they are generated, and are left out"
        problems.append(Problem("unlabelled", "", "", detail))
    spare = {kind: labels - min(len(seen[not kind]), wanted[not kind]) for kind in seen}
    chosen = {kind: seen[kind][: spare[kind]] for kind in seen}
    drawn = Labelled(data, sorted(chosen[False] + chosen[True]), problems)
    return Drawn(drawn, len(chosen[False]), len(chosen[True]))


@dataclass(kw_only=True)
class Scoring:
    """Analyses images as a ``Looker`` with a detector; a detector without a ``fake_probability`` ends the run."""

    looker: Looker
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size, self._scored = self.looker.batch_size, False

    def identity(self) -> Json:
        """The detector."""
        return self.looker.identity()

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the looker."""
        return self.looker.ledgers()

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """The answers of the looker.

        Raises:
            ConfigError: the detector gave no ``fake_probability`` for the first images that it could analyse.
        """
        answers = self.looker(samples)
        known = [answer for answer in answers if not isinstance(answer, RefinerError)]
        self._scored = self._scored or any(_score(answer) is not None for answer in known)
        if known and not self._scored:
            raise unscored(str(self.identity()["detector"]))
        return answers


def unscored(detector: str) -> ConfigError:
    """The error of a detector that cannot be calibrated."""
    return ConfigError(
        f"The detector {detector!r} gives no fake_probability, so that there is nothing to calibrate: use a detector "
        "with a real/fake verdict, such as micro."
    )


def _score(answer: Json) -> float | None:
    score: float | None = answer["analysis"]["fake_probability"]
    return score


class Calibrated(NamedTuple):
    """A calibration, what it was fitted on, and the images without a score."""

    calibration: Calibration
    fitted: Fitted
    scores: Scores
    fake: Labels
    failures: list[Failure]


def calibrate(run: Run, *, fpr: float, max_error: float, seed: int) -> Calibrated:
    """Fit a calibration on the records of a run; settings as for ``refiner.metrics.calibration.fit``.

    Raises:
        ConfigError: the detector gave no ``fake_probability``.
        InputError: too few images have a score, or none of the generated ones lies above the threshold.
    """
    detector = str(run.description["system"]["detector"])
    scores, fake, failures = _columns(run.records)
    if not len(scores) and all(failure.kind == _NO_VERDICT for failure in failures):
        raise unscored(detector)
    fitted = fit(scores, fake, fpr=fpr, max_error=max_error, seed=seed)
    data = {name: run.description["data"][name] for name in ("specification", "labels", "seed", "digest")}
    counts = {"real": int((~fake).sum()), "generated": int(fake.sum()), "failed": len(failures)}
    calibration = Calibration(
        detector=detector,
        point=fitted.point,
        max_error=max_error,
        band=fitted.band,
        curve=fitted.curve,
        data=data | counts,
        figures=_figures(fitted, scores, fake),
    )
    return Calibrated(calibration, fitted, scores, fake, failures)


_NO_VERDICT = "no_verdict"


def _columns(records: Iterable[Json]) -> tuple[Scores, Labels, list[Failure]]:
    scores, fake, failures = list[float](), list[bool](), list[Failure]()
    for record in records:
        error = record["error"]
        if error is not None:
            failures.append(Failure(record["name"], error["kind"], error["detail"]))
        elif (score := _score(record["answer"])) is None:
            failures.append(Failure(record["name"], _NO_VERDICT, "the detector gave no fake_probability"))
        else:
            scores.append(score)
            fake.append(record["truth"]["fake"])
    return np.array(scores), np.array(fake, dtype=np.bool_), failures


def _figures(fitted: Fitted, scores: Scores, fake: Labels) -> Mapping[str, float | None]:
    low, high = fitted.band or (2.0, -1.0)
    inside = (scores >= low) & (scores <= high)
    wrong = fake != (scores > fitted.point.threshold)
    measures = {"log_loss": log_loss, "brier": brier, "calibration_error": calibration_error}
    return {
        "abstained": float(inside.mean()),
        "wrong": float(wrong.mean()),
        "wrong_outside_band": None if inside.all() else float(wrong[~inside].mean()),
        **{f"{name}_before": measure(scores, fake) for name, measure in measures.items()},
        **{name: measure(fitted.held_out, fake) for name, measure in measures.items()},
        **{f"log_loss_{kind}": loss for kind, loss in fitted.losses.items()},
    }
