"""Fitting a calibration: against scikit-learn, scipy and brute force, and what it promises about new images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from refiner.calibration import Isotonic, Platt, Scores, log_odds
from refiner.errors import ConfigError, InputError
from refiner.metrics.calibration import (
    Labels,
    abstention_band,
    calibration_error,
    fit,
    fit_isotonic,
    fit_platt,
    operating_point,
    reliability,
    smoothed,
)
from refiner.metrics.intervals import clopper_pearson

GRID = np.linspace(0, 1, 1001)


def drawn(seed: int, real: int = 60, generated: int = 50, apart: float = 1.5) -> tuple[Scores, Labels]:
    """Scores of real and generated images: normal on the scale of log odds."""
    rng = np.random.default_rng(seed)
    fake = np.arange(real + generated) >= real
    return expit(rng.normal(size=len(fake)) + apart * fake), fake


def rounded(seed: int) -> tuple[Scores, Labels]:
    scores, fake = drawn(seed)
    return scores.round(1), fake


@pytest.mark.parametrize("make", [drawn, rounded])
@pytest.mark.parametrize("seed", range(5))
def test_the_isotonic_map_is_that_of_scikit_learn(make, seed: int) -> None:
    scores, fake = make(seed)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, smoothed(fake))
    assert fit_isotonic(scores, fake)(GRID) == pytest.approx(theirs.predict(GRID), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_logistic_map_is_that_of_scikit_learn(seed: int) -> None:
    scores, fake = drawn(seed)
    targets = smoothed(fake)
    places = np.tile(log_odds(scores), 2)[:, None]
    truth, weights = np.repeat([1, 0], len(scores)), np.concatenate([targets, 1 - targets])
    theirs = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(places, truth, sample_weight=weights)
    ours = fit_platt(scores, fake)
    assert (ours.slope, ours.intercept) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-4)


@pytest.mark.parametrize("fitter", [fit_isotonic, fit_platt])
def test_a_map_never_falls(fitter) -> None:
    scores, fake = drawn(0)
    for labels in (fake, ~fake):  # a detector that has it the wrong way round
        assert (np.diff(fitter(scores, labels)(GRID)) >= -1e-12).all()
    apart = fitter(np.where(fake, 1.0, 0.0), fake)
    low, high = apart(np.array([0.0, 1.0]))
    assert 0 < low < 0.05
    assert 0.95 < high < 1


@pytest.mark.parametrize("fpr", [0.04, 0.05, 0.29, 0.5, 0.9])
@pytest.mark.parametrize("make", [drawn, rounded])
def test_the_threshold_is_the_lowest_with_so_few_false_positives(make, fpr: float) -> None:
    scores, fake = make(3)
    point = operating_point(scores, fake, fpr)
    real, generated = scores[~fake], scores[fake]
    allowed = max(k for k in range(len(real)) if (k + 1) / (len(real) + 1) <= fpr + 1e-12)
    assert point.false_positives == (real > point.threshold).sum() <= allowed
    assert point.found == (generated > point.threshold).sum()
    lower = max(scores[scores <= point.threshold])
    assert (real >= lower).sum() > allowed, "a lower threshold would have too many"
    assert not ((scores > lower) & (scores <= point.threshold)).any()


def test_new_real_images_are_called_generated_as_seldom_as_promised() -> None:
    """With scores of a known distribution, the false-positive rate of a threshold is known exactly."""
    rates, held, wanted = [], 0, 0.1
    for seed in range(400):
        scores, fake = drawn(seed, real=50, generated=10, apart=4)
        point = operating_point(scores, fake, wanted)
        rate = float(norm.sf(log_odds(np.array([point.threshold]))[0]))
        rates.append(rate)
        held += point.interval[0] <= rate <= point.interval[1]
    assert wanted / 2 < np.mean(rates) <= wanted
    assert held >= 0.95 * 400


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 30), (3, 30), (30, 30), (77, 500)])
def test_the_interval_is_that_of_clopper_and_pearson(count: int, total: int) -> None:
    theirs = binomtest(count, total).proportion_ci(0.9, method="exact")
    assert clopper_pearson(count, total, 0.9) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("curve", [fit_platt(*drawn(1)), fit_isotonic(*drawn(1)), fit_isotonic(*rounded(2))])
@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.81, 0.999])
@pytest.mark.parametrize("most", [0.05, 0.2, 0.5, 1.0])
def test_the_band_is_where_the_verdict_is_wrong_too_often(curve, threshold: float, most: float) -> None:
    band = abstention_band(curve, threshold, most)
    chances = curve(GRID)
    wrong = np.where(threshold < GRID, 1 - chances, chances) > most
    low, high = band or (2.0, -1.0)
    assert (((low <= GRID) & (high >= GRID)) == wrong).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_that_of_its_bins(seed: int) -> None:
    scores, fake = drawn(seed)
    shares, means = calibration_curve(fake, scores, n_bins=10)
    bins = reliability(scores, fake)
    assert [each.probability for each in bins] == pytest.approx(means.tolist())
    assert [each.generated / each.images for each in bins] == pytest.approx(shares.tolist())
    weights = np.array([each.images for each in bins])
    assert calibration_error(scores, fake) == pytest.approx((weights * abs(shares - means)).sum() / len(fake))
    assert sum(each.images for each in reliability(np.array([0.0, 1.0]), np.array([False, True]))) == 2


def test_the_kind_of_map_with_the_lower_held_out_loss_is_used() -> None:
    smooth = fit(*drawn(4, 60, 60, apart=2), fpr=0.1, max_error=0.2)
    assert isinstance(smooth.curve, Platt)
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=1500)  # three levels, which no logistic curve has
    fake = rng.uniform(size=1500) < np.choose((scores * 3).astype(int), [0.02, 0.5, 0.98])
    stepped = fit(scores, fake, fpr=0.1, max_error=0.2)
    assert isinstance(stepped.curve, Isotonic)
    for found in (smooth, stepped):
        assert found.losses[found.curve.method] == min(found.losses.values())


def test_a_fit_lowers_the_loss_on_images_that_it_has_not_seen() -> None:
    scores, fake = drawn(5, 200, 200, apart=2)
    overconfident = expit(4 * log_odds(scores) + 3)
    found = fit(overconfident, fake, fpr=0.05, max_error=0.2)
    assert calibration_error(found.held_out, fake) < calibration_error(overconfident, fake) / 2
    again = fit(overconfident, fake, fpr=0.05, max_error=0.2)
    assert (again.held_out == found.held_out).all()


@pytest.mark.parametrize(
    ("real", "generated", "fpr", "message"),
    [
        (18, 50, 0.05, "at least 19 real and 10 generated images for fpr=0.05, got 18 and 50"),
        (50, 9, 0.05, "got 50 and 9"),
        (9, 50, 0.5, "at least 10 real"),
        (98, 50, 0.01, "at least 99 real"),
    ],
)
def test_too_few_labels_are_refused(real: int, generated: int, fpr: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(*drawn(0, real, generated), fpr=fpr, max_error=0.2)


def test_a_detector_that_cannot_reach_the_rate_is_refused() -> None:
    fake = np.arange(60) >= 30
    scores = np.where(fake, 1.0, 0.0)
    scores[:6] = 1.0  # six of thirty real images have the highest score
    with pytest.raises(InputError, match="occurs 6 times among 30 real images"):
        fit(scores, fake, fpr=0.1, max_error=0.2)
    assert fit(scores, fake, fpr=0.3, max_error=0.2).point.false_positives == 6


@pytest.mark.parametrize(("fpr", "most"), [(0, 0.2), (1, 0.2), (-1, 0.2), (float("nan"), 0.2), (0.1, 0), (0.1, 1.1)])
def test_rates_out_of_their_range_are_refused(fpr: float, most: float) -> None:
    with pytest.raises(ConfigError, match="rate"):
        fit(*drawn(0), fpr=fpr, max_error=most)
