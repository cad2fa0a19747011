"""Intervals: how often they hold the true value, and that few or equal samples never look certain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from refiner.metrics.intervals import ANY, POSITIVE, UNIT, Range, clopper_pearson, few_words, mean_interval
from refiner.metrics.ranking import rank_by_score, rank_generators

Samples = NDArray[np.float64]
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
@pytest.mark.parametrize(
    ("draw", "true"),
    [
        (lambda rng, count: (rng.random(count) < 0.5).astype(float), 0.5),
        (lambda rng, count: (rng.random(count) < 0.1).astype(float), 0.1),
        (lambda rng, count: rng.random(count), 0.5),
        (lambda rng, count: 0.3 + 0.05 * rng.standard_normal(count), 0.3),
    ],
    ids=["coin", "rare", "uniform", "normal"],
)
def test_an_interval_holds_the_true_mean_also_with_few_samples(
    count: int, draw: Callable[[np.random.Generator, int], Samples], true: float
) -> None:
    rng = np.random.default_rng(0)
    found = [mean_interval(draw(rng, count), within=UNIT) for _ in range(1000)]
    assert np.mean([low <= true <= high for low, high in found]) >= 0.9


@given(SHARES)
def test_no_interval_of_shares_is_of_width_0_or_leaves_the_range(values: list[float]) -> None:
    low, high = mean_interval(np.array(values), within=UNIT)
    assert low is not None
    assert high is not None
    assert 0 <= low < high <= 1
    assert low - 1e-9 <= np.mean(values) <= high + 1e-9


@pytest.mark.parametrize("within", [ANY, POSITIVE])
@pytest.mark.parametrize("values", [[0.0], [0.5], [0.5, 0.5, 0.5], [0.0, 0.0]])
def test_equal_samples_say_nothing_about_an_end_that_is_not_known(values: list[float], within: Range) -> None:
    low, high = mean_interval(np.array(values), within=within)
    assert high is None
    assert (low is None) == (within is ANY)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("share", [0, 1])
def test_shares_that_agree_have_the_exact_interval(count: int, share: int) -> None:
    found = mean_interval(np.full(count, float(share)), within=UNIT)
    assert found == pytest.approx(clopper_pearson(share * count, count))


def test_samples_that_differ_have_students_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, 9)
    wanted = ttest_1samp(values, 0).confidence_interval(0.9)
    assert mean_interval(values, level=0.9) == pytest.approx((wanted.low, wanted.high))
    assert mean_interval(5 * values, np.full(9, 5.0), level=0.9) == pytest.approx((wanted.low, wanted.high))


def test_samples_without_a_part_in_a_quotient_do_not_count() -> None:
    over, under = np.array([1.0, 0.0, 2.0]), np.array([2.0, 3.0, 4.0])
    padded = mean_interval(np.append(over, [0.0] * 5), np.append(under, [0.0] * 5), within=UNIT)
    assert padded == mean_interval(over, under, within=UNIT)
    assert mean_interval(np.zeros(4), np.zeros(4), within=UNIT) == (None, None)


@given(st.integers(1, 4), st.floats(0.01, 1))
def test_few_prompts_never_make_a_generator_surely_better(prompts: int, by: float) -> None:
    scores = {name: {str(at): value + 0.1 * at for at in range(prompts)} for name, value in (("a", 0.0), ("b", by))}
    duel = rank_by_score(scores, name="x").duels["b", "a"]
    assert duel.per_prompt == 1
    assert duel.overall == pytest.approx(1 - 0.5 ** (prompts + 1), abs=0.03)


def test_clean_images_leave_the_interval_of_their_flaws_open() -> None:
    row = rank_generators({"one": {"a": [], "b": [], "c": []}}).rows[0]
    assert row.estimates["AF_share"] == pytest.approx((0, 0, 0.7076), abs=1e-3)
    assert row.estimates["CAP"] == (0, None, None)


@pytest.mark.parametrize(("count", "said"), [(1, "Only 1 prompt:"), (19, "Only 19 prompts:"), (20, "")])
def test_few_prompts_are_said(count: int, said: str) -> None:
    assert few_words(count, "prompts").startswith(said)
    assert bool(few_words(count, "prompts")) == bool(said)
