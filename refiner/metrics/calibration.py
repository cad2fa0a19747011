"""Fit a calibration (``refiner.calibration``) on the scores of labelled images.

**Operating point.** Of n real images, at most k = floor(fpr (n + 1)) - 1 lie above the threshold. Then a new image of
the same kind lies above it with a probability of at most fpr, whatever the distribution of the scores, as in split
conformal prediction (Vovk et al. 2005). The threshold lies half-way to the next higher score, so that rounding does not
move an image across it.

The interval of the false-positive rate is that of Clopper and Pearson. It holds although the threshold was chosen on
the same images: for scores without ties, the rate at the threshold lies between a Beta(k, n - k + 1) and a
Beta(k + 1, n - k) variable, and the interval's ends are quantiles of just these two. A bootstrap interval would be
empty where no real image lies above the threshold.

**Map.** Platt's scaling (1999) on the log odds of the score, or isotonic regression: the one with the lower log loss
in cross-validation. Both fit Platt's smoothed targets, so that no probability is 0 or 1, and neither falls.

**Abstention band.** By the map, the verdict of a score s at or below the threshold is wrong with probability p(s), and
of a score above it with 1 - p(s). The first never falls and the second never rises, so that the scores with more than
the stated rate form one range, with the threshold in it or at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.calibration import TINY, Curve, Isotonic, OperatingPoint, Platt, Scores, log_odds
from refiner.errors import ConfigError, InputError
from refiner.metrics.intervals import clopper_pearson

LEAST: Final = 10
"""Fewest real and fewest generated images."""
FOLDS: Final = 5
BINS: Final = 10
"""Bins of equal width for the calibration error."""

Labels = NDArray[np.bool_]


class Fitted(NamedTuple):
    """A fit, and the probabilities by which it is judged."""

    point: OperatingPoint
    curve: Curve
    band: tuple[float, float] | None
    held_out: Scores
    """Calibrated probability of each image, by a map that was fitted without it; float (N,)."""
    losses: dict[str, float]
    """Log loss of each kind of map in cross-validation."""


def least_real(fpr: float) -> int:
    """The fewest real images that can show a false-positive rate."""
    return max(LEAST, math.ceil(1 / fpr - 1e-9) - 1)


def check_rates(fpr: float, max_error: float) -> None:
    """Check the two rates of ``fit``.

    Raises:
        ConfigError: one of them is out of its range.
    """
    if not 0 < fpr < 1:
        raise ConfigError(f"Expected a false-positive rate between 0 and 1, got fpr={fpr}: choose one such as 0.05.")
    if not 0 < max_error <= 1:
        raise ConfigError(
            f"Expected a rate of wrong verdicts above 0 and up to 1, got max_error={max_error}: choose one such as 0.2."
        )


def check_labels(real: int, generated: int, fpr: float) -> None:
    """Check that there are enough labelled images.

    Raises:
        InputError: there are too few.
    """
    if real < least_real(fpr) or generated < LEAST:
        raise InputError(
            f"Expected at least {least_real(fpr)} real and {LEAST} generated images for fpr={fpr:g}, got {real} and "
            f"{generated}: use more labels, other data, or a higher rate."
        )


def fit(scores: Scores, fake: Labels, *, fpr: float, max_error: float, seed: int = 0) -> Fitted:
    """Fit threshold, map and abstention band.

    Args:
        scores: the detector's ``fake_probability`` of each image, float (N,) in [0, 1].
        fake: whether each image is generated, bool (N,).
        fpr: the false-positive rate of the operating point, in (0, 1).
        max_error: in the band, the verdict is wrong more often than this, in (0, 1]; 1 gives no band.
        seed: of the folds of the cross-validation.

    Raises:
        ConfigError: a rate is out of its range.
        InputError: there are too few images, or no generated image lies above the threshold.
    """
    check_rates(fpr, max_error)
    check_labels(int((~fake).sum()), int(fake.sum()), fpr)
    point = operating_point(scores, fake, fpr)
    folds = _folds(fake, seed)
    tries = {kind: _held_out(scores, fake, folds, fitter) for kind, fitter in _FITTERS.items()}
    losses = {kind: log_loss(guesses, fake) for kind, guesses in tries.items()}
    best = min(losses, key=losses.__getitem__)
    curve = _FITTERS[best](scores, fake)
    return Fitted(point, curve, abstention_band(curve, point.threshold, max_error), tries[best], losses)


def operating_point(scores: Scores, fake: Labels, fpr: float) -> OperatingPoint:
    """The lowest threshold with the chosen false-positive rate; see the module.

    Raises:
        InputError: no generated image lies above it.
    """
    real = np.sort(scores[~fake])
    allowed = math.floor(fpr * (len(real) + 1) + 1e-9) - 1
    threshold = float(real[len(real) - 1 - allowed])
    higher = scores[scores > threshold]
    if not (fake & (scores > threshold)).any():
        reached = int((real >= threshold).sum())
        raise InputError(
            f"No generated image has a score above {threshold:g}, which fpr={fpr:g} needs, because this score or a "
            f"higher one occurs {reached} times among {len(real)} real images: choose a higher rate, or another "
            "detector."
        )
    middle = (threshold + float(higher.min())) / 2
    threshold = middle if middle < higher.min() else threshold
    wrong, found = int((~fake & (scores > threshold)).sum()), int((fake & (scores > threshold)).sum())
    return OperatingPoint(
        threshold=threshold,
        wanted=fpr,
        false_positives=wrong,
        real=len(real),
        interval=clopper_pearson(wrong, len(real)),
        found=found,
        generated=int(fake.sum()),
        recall_interval=clopper_pearson(found, int(fake.sum())),
    )


def abstention_band(curve: Curve, threshold: float, max_error: float) -> tuple[float, float] | None:
    """Lowest and highest score at which the verdict is wrong more often than ``max_error``; None if there is none."""
    above = math.nextafter(threshold, 1)
    low = _edge(lambda score: _at(curve, score) > max_error, threshold, 0.0)
    high = _edge(lambda score: 1 - _at(curve, score) > max_error, above, 1.0)
    if low is None and high is None:
        return None
    return above if low is None else low, threshold if high is None else high


def _at(curve: Curve, score: float) -> float:
    return float(curve(np.array([score]))[0])


def _edge(wrong: Callable[[float], bool], start: float, end: float) -> float | None:
    """The last score, from ``start`` towards ``end``, up to which all are wrong; None if ``start`` is not."""
    if not wrong(start):
        return None
    if wrong(end):
        return end
    while (middle := (start + end) / 2) not in (start, end):
        start, end = (middle, end) if wrong(middle) else (start, middle)
    return start


def smoothed(fake: Labels) -> Scores:
    """Platt's targets: (n1 + 1) / (n1 + 2) of generated and 1 / (n0 + 2) of real images, float (N,)."""
    generated, real = int(fake.sum()), int((~fake).sum())
    return np.where(fake, (generated + 1) / (generated + 2), 1 / (real + 2))


def fit_isotonic(scores: Scores, fake: Labels) -> Isotonic:
    """Isotonic regression on the smoothed targets; images of one score count together."""
    from scipy.optimize import isotonic_regression

    places, members, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(members, weights=smoothed(fake)) / counts
    levels = np.maximum.accumulate(isotonic_regression(means, weights=counts).x)
    ends = np.flatnonzero(np.diff(levels) > 0)  # the last place of each level but the highest
    kept = np.unique([0, *ends, *(ends + 1), len(places) - 1])
    return Isotonic(scores=tuple(places[kept].tolist()), probabilities=tuple(levels[kept].tolist()))


def fit_platt(scores: Scores, fake: Labels) -> Platt:
    """The logistic curve of least cross-entropy with the smoothed targets, among those that do not fall."""
    from scipy.optimize import minimize

    places, targets = log_odds(scores), smoothed(fake)

    def loss(values: Scores) -> tuple[float, Scores]:
        logits = values[0] * places + values[1]
        wrong = 1 / (1 + np.exp(-logits)) - targets
        return float(np.mean(np.logaddexp(0, logits) - targets * logits)), np.array(
            [np.mean(wrong * places), wrong.mean()]
        )

    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    with np.errstate(over="ignore"):
        found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)],
                         options=options).x  # fmt: skip
    return Platt(slope=float(found[0]), intercept=float(found[1]))


_FITTERS: Final[dict[str, Callable[[Scores, Labels], Curve]]] = {"platt": fit_platt, "isotonic": fit_isotonic}


def _folds(fake: Labels, seed: int) -> NDArray[np.int64]:
    """Number of the fold of each image; both kinds are spread evenly over the folds."""
    folds, rng = np.zeros(len(fake), dtype=np.int64), np.random.default_rng(seed)
    for kind in (False, True):
        places = np.flatnonzero(fake == kind)
        folds[rng.permutation(places)] = np.arange(len(places)) % FOLDS
    return folds


def _held_out(
    scores: Scores, fake: Labels, folds: NDArray[np.int64], fitter: Callable[[Scores, Labels], Curve]
) -> Scores:
    found = np.zeros(len(scores))
    for number in range(FOLDS):
        out = folds == number
        found[out] = fitter(scores[~out], fake[~out])(scores[out])
    return found


def log_loss(probabilities: Scores, fake: Labels) -> float:
    """Mean negative logarithm of the probability of the truth; probabilities are moved into [TINY, 1 - TINY] first."""
    inside = np.clip(probabilities, TINY, 1 - TINY)
    return float(-np.where(fake, np.log(inside), np.log1p(-inside)).mean())


def brier(probabilities: Scores, fake: Labels) -> float:
    """Mean squared difference of probability and truth (1 = generated)."""
    return float(((probabilities - fake) ** 2).mean())


class Bin(NamedTuple):
    """Images whose probabilities lie in one bin."""

    probability: float
    """Their mean probability."""
    generated: int
    images: int


def reliability(probabilities: Scores, fake: Labels) -> list[Bin]:
    """The bins of a reliability diagram, of equal width and from the lowest; those without images are left out."""
    places = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    chosen = [places == number for number in range(BINS)]
    return [
        Bin(float(probabilities[each].mean()), int(fake[each].sum()), int(each.sum())) for each in chosen if each.any()
    ]


def calibration_error(probabilities: Scores, fake: Labels) -> float:
    """The expected calibration error (Guo et al. 2017): mean distance of probability and share, weighted by images."""
    bins = reliability(probabilities, fake)
    return sum(abs(each.probability * each.images - each.generated) for each in bins) / len(fake)
