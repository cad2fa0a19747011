"""The agreement of rankings: tau-b against counts by hand and scipy, its laws, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from refiner.errors import ConfigError
from refiner.metrics.kendall import compare_rankings, kendall_tau
from refiner.metrics.ranking import Bootstrap, rank_by_score, rank_generators

FEW = Bootstrap(resamples=200)
GENERATORS = "abcdef"


def tau(one: list[float], other: list[float]) -> float:
    return float(kendall_tau(np.array(one), np.array(other)))


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([1, 2, 3], [1, 2, 3], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], (5 - 1) / 6),
        ([1, 2, 3], [1, 3, 2], (2 - 1) / 3),
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(2 * 3)),  # the tied pair counts in neither way
        ([1, 1, 2], [2, 2, 1], -1),
        ([1, 1, 2], [1, 2, 2], 1 / 2),
        ([0.1 + 0.2, 0.3, 1], [1, 1, 2], 1),  # equal but for the last bit
    ],
)
def test_tau_is_what_one_counts_by_hand(one: list[float], other: list[float], wanted: float) -> None:
    assert tau(one, other) == pytest.approx(wanted, abs=1e-12)


VALUES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=9)


@given(VALUES)
def test_tau_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    one, other = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    wanted = kendalltau(one, other).statistic
    assert tau(one, other) == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert tau(other, one) == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert tau([-value for value in one], other) == pytest.approx(-wanted, abs=1e-12, nan_ok=True)
    assert tau([value**3 for value in one], other) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("one", "other"), [([1], [1]), ([1, 1], [1, 2]), ([1, 2], [3, 3]), ([2, 2, 2], [2, 2, 2])])
def test_tau_of_nothing_to_order_is_undefined(one: list[float], other: list[float]) -> None:
    assert math.isnan(tau(one, other))


def severities(rates: list[float], prompts: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Flaws of generators with these rates."""
    rng = np.random.default_rng(seed)
    return {
        name: {f"p{at}": rng.uniform(0, 1, rng.poisson(rate)).tolist() for at in range(prompts)}
        for name, rate in zip(GENERATORS, rates, strict=False)
    }


def test_two_detectors_of_one_mind_agree_and_the_interval_holds_the_value() -> None:
    one, other = (rank_generators(severities([1, 2, 4], 60, seed), FEW) for seed in (0, 1))
    found = compare_rankings(one, other)
    assert set(found) == {"CAP", "MAI", "AF", "AF_share", "MAI_image"}
    for agreement in found.values():
        assert agreement.value is not None
        assert agreement.low is not None
        assert agreement.high is not None
        assert -1 <= agreement.low <= agreement.value <= agreement.high <= 1
        assert agreement.undefined == 0
    assert found["CAP"] == found["AF"] == (1, 1, 1, 0)
    assert found["MAI"].low < 0 < 1 <= found["MAI"].high, "the severities are noise"


def test_a_ranking_agrees_with_itself_in_every_draw() -> None:
    ranking = rank_generators(severities([2, 2, 2, 2], 12, 3), FEW)
    for agreement in compare_rankings(ranking, ranking).values():
        assert agreement[:3] == (1, 1, 1), "paired draws"


def test_order_and_company_do_not_matter() -> None:
    one, other = severities([1, 1.3, 1.6, 2], 20, 5), severities([2, 1.2, 1.4, 1], 20, 6)
    found = compare_rankings(rank_generators(one, FEW), rank_generators(other, FEW))
    turned = {name: dict(reversed(one[name].items())) for name in reversed(one)}
    assert compare_rankings(rank_generators(other, FEW), rank_generators(turned, FEW)) == found
    twice = {f"{prompt}-{copy}": prompt for prompt in one["a"] for copy in (0, 1)}
    doubled = (
        rank_generators(
            {name: {image: values[prompt] for image, prompt in twice.items()} for name, values in each.items()},
            FEW,
            prompts_of=twice,
        )
        for each in (one, other)
    )
    assert compare_rankings(*doubled)["CAP"] == pytest.approx(found["CAP"])


def test_the_interval_is_that_of_draws_made_by_hand() -> None:
    one, other = severities([1, 1.3, 1.6, 2], 20, 5), severities([2, 1.2, 1.4, 1], 20, 6)
    found = compare_rankings(*(rank_generators(each, Bootstrap(resamples=4000)) for each in (one, other)))["AF"]
    rng, draws = np.random.default_rng(99), []
    counts = [np.array([[len(found) for found in row.values()] for row in each.values()]) for each in (one, other)]
    for _ in range(4000):
        drawn = rng.integers(20, size=20)
        draws.append(kendalltau(*(count[:, drawn].sum(axis=1) for count in counts)).statistic)
    assert found.value == pytest.approx(kendalltau(*(count.sum(axis=1) for count in counts)).statistic)
    known = [draw for draw in draws if not math.isnan(draw)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(known, (0.025, 0.975))), abs=0.1)


def test_undefined_stays_undefined() -> None:
    clean = {name: {"p": [], "q": []} for name in "ab"}
    flawed = {"a": {"p": [1.0], "q": []}, "b": {"p": [], "q": []}}
    one, other = rank_generators(clean, FEW), rank_generators(flawed, FEW)
    assert compare_rankings(one, other)["CAP"] == (None, None, None, 1)
    some = compare_rankings(other, other)["CAP"]
    assert some[:3] == (1, 1, 1)
    assert 0.15 < some.undefined < 0.35, "draws of q alone"
    alone = rank_generators({"a": flawed["a"]}, FEW)
    assert compare_rankings(alone, alone)["AF"].value is None


def test_rankings_of_something_else_are_refused() -> None:
    base = severities([1, 2], 5, 0)
    ranking = rank_generators(base, FEW)
    others = [
        rank_generators(severities([1, 2, 3], 5, 0), FEW),
        rank_generators(severities([1, 2], 6, 0), FEW),
        rank_generators({name: {f"x{key}": row for key, row in rows.items()} for name, rows in base.items()}, FEW),
        rank_generators(base, Bootstrap(resamples=200, seed=1)),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="same generators on the same prompts"):
            compare_rankings(ranking, other)
    scores = {name: {key: float(len(row)) for key, row in rows.items()} for name, rows in base.items()}
    assert compare_rankings(ranking, rank_by_score(scores, name="x", bootstrap=FEW)) == {}
