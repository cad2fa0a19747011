"""Ranking: the definitions against plain sums, paired draws, and every bad value named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.data.problems import count_problems
from refiner.errors import ConfigError, InputError
from refiner.metrics.ranking import Bootstrap, rank_by_score, rank_generators

FEW = Bootstrap(resamples=50)
SEVERITIES = st.lists(st.floats(0, 1), max_size=4)


@given(st.lists(SEVERITIES, min_size=1, max_size=8))
def test_measures_are_what_the_docstring_says(images):
    row = rank_generators({"one": dict(zip("abcdefgh", images, strict=False))}, FEW).rows[0]
    every = [value for image in images for value in image]
    flawed = [image for image in images if image]
    wanted = {
        "CAP": sum(every) / len(images),
        "MAI": sum(every) / len(every) if every else 0.0,
        "AF": len(every) / len(images),
        "AF_share": len(flawed) / len(images),
        "MAI_image": sum(sum(image) / len(image) for image in flawed) / len(flawed) if flawed else 0.0,
    }
    assert {name: estimate.value for name, estimate in row.estimates.items()} == pytest.approx(wanted, abs=1e-12)
    assert row.estimates["CAP"].value == pytest.approx(
        row.estimates["AF"].value * row.estimates["MAI"].value, abs=1e-12
    )
    for value, low, high in row.estimates.values():
        assert (low is None) == (high is None)
        assert low is None or low < high
        assert low is None or low - 1e-9 <= value <= high + 1e-9


def noisy(rate: float, prompts: int, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {f"p{at}": list(rng.uniform(0, 1, rng.poisson(rate))) for at in range(prompts)}


def test_fewer_flaws_rank_first_and_surely():
    ranking = rank_generators({"bad": noisy(3, 200), "good": noisy(1, 200, 1), "fair": noisy(2, 200, 2)})
    assert [row.name for row in ranking.rows] == ["good", "fair", "bad"]
    assert [row.place for row in ranking.rows] == [1, 2, 3]
    assert ranking.duels["good", "bad"].overall == 1.0
    assert 0.5 < ranking.duels["good", "bad"].per_prompt < 1.0
    for (one, other), duel in ranking.duels.items():
        assert duel.overall + ranking.duels[other, one].overall == pytest.approx(1)
        assert duel.per_prompt + ranking.duels[other, one].per_prompt == pytest.approx(1)


def test_a_generator_against_itself_is_an_even_match():
    same = noisy(2, 37)
    ranking = rank_generators({"one": same, "two": same, "three": dict(same)})
    assert {row.place for row in ranking.rows} == {1}
    assert all(duel == (0.5, 0.5) for duel in ranking.duels.values())


def test_neither_order_nor_company_changes_an_interval():
    one, other = noisy(2, 30), noisy(1, 30, 5)
    backwards = dict(reversed(one.items()))
    together = {row.name: row.estimates for row in rank_generators({"one": one, "other": other}).rows}
    swapped = {row.name: row.estimates for row in rank_generators({"other": other, "one": backwards}).rows}
    alone = rank_generators({"one": one}).rows[0].estimates
    for name in alone:
        assert together["one"][name] == pytest.approx(alone[name], abs=1e-12)
        assert swapped["one"][name] == pytest.approx(alone[name], abs=1e-12)


def test_pictures_of_a_prompt_are_drawn_together():
    once = noisy(2, 60)
    twice = {f"{prompt}-{copy}": values for prompt, values in once.items() for copy in "01"}
    prompts_of = {image: image.rpartition("-")[0] for image in twice}
    alone, together = (
        rank_generators({"one": once}),
        rank_generators({"one": twice}, prompts_of=prompts_of),
    )
    assert together.prompts == 60
    for name, estimate in alone.rows[0].estimates.items():
        assert together.rows[0].estimates[name] == pytest.approx(estimate, abs=1e-12)
    apart = rank_generators({"one": twice}).rows[0].estimates["CAP"]
    assert apart.high - apart.low < 0.8 * (alone.rows[0].estimates["CAP"].high - alone.rows[0].estimates["CAP"].low)
    scores = {"one": {image: float(len(values)) for image, values in twice.items()}}
    assert rank_by_score(scores, name="n", prompts_of=prompts_of).rows[0].estimates["n"] == pytest.approx(
        alone.rows[0].estimates["AF"], abs=1e-12
    )


def test_interval_is_that_of_the_mean():
    values = np.random.default_rng(3).normal(0.25, 0.05, 400)
    scores = {"one": {str(at): float(value) for at, value in enumerate(values)}}
    estimate = rank_by_score(scores, name="hps", bootstrap=Bootstrap(resamples=4000)).rows[0].estimates["hps"]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=half / 8)
    assert estimate.high == pytest.approx(values.mean() + half, abs=half / 8)


def test_a_wider_level_and_another_seed_change_the_interval_and_the_signature():
    scores = {"one": {str(at): at / 50 for at in range(50)}}
    settings = [Bootstrap(), Bootstrap(level=0.5), Bootstrap(seed=1), Bootstrap(resamples=500)]
    rankings = [rank_by_score(scores, name="x", bootstrap=each) for each in settings]
    assert len({ranking.signature for ranking in rankings}) == 4
    wide, narrow = (ranking.rows[0].estimates["x"] for ranking in rankings[:2])
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("higher", [True, False])
def test_scores_rank_in_their_own_direction(higher):
    scores = {"low": {"a": 0.1, "b": 0.2}, "high": {"a": 0.3, "b": 0.4}}
    ranking = rank_by_score(scores, name="hps", higher_is_better=higher)
    assert ranking.rows[0].name == ("high" if higher else "low")
    duel = ranking.duels[ranking.rows[0].name, ranking.rows[1].name]
    assert duel.per_prompt == 1
    assert duel.overall == pytest.approx(0.875, abs=0.02), "two prompts are few"


def test_only_common_prompts_count_and_the_others_are_named():
    ranking = rank_generators({"one": {"a": [1.0], "b": [0.5]}, "two": {"b": [0.25], "c": []}}, FEW)
    assert ranking.prompts == 1
    assert {row.name: row.estimates["CAP"].value for row in ranking.rows} == {"two": 0.25, "one": 0.5}
    assert count_problems(ranking.problems) == {"missing_image": 2}
    assert {(problem.file, problem.where) for problem in ranking.problems} == {("one", "c"), ("two", "a")}


def test_values_that_are_no_number_are_named_and_left_out():
    nan = math.nan
    ranking = rank_generators({"one": {"a": [0.5, None, nan], "b": []}}, FEW)
    assert ranking.rows[0].estimates["AF"].value == 0.5
    assert count_problems(ranking.problems) == {"missing_severity": 1}
    scored = rank_by_score({"one": {"a": nan, "b": 1.0}, "two": {"a": 2.0, "b": 3.0}}, name="x", bootstrap=FEW)
    assert scored.prompts == 1
    assert count_problems(scored.problems) == {"bad_score": 1, "missing_image": 1}


@pytest.mark.parametrize("value", [-0.1, 1.5, 30, math.inf])
def test_severities_of_another_scale_are_refused(value):
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        rank_generators({"one": {"a": [value]}}, FEW)


def test_nothing_to_rank():
    with pytest.raises(InputError, match="name at least one"):
        rank_generators({})
    with pytest.raises(InputError, match="one, two"):
        rank_generators({"one": {"a": []}, "two": {"b": []}})
    with pytest.raises(InputError, match="same prompts"):
        rank_by_score({"one": {"a": math.nan}}, name="x")


@pytest.mark.parametrize("settings", [{"resamples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": math.nan}])
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match="resample"):
        Bootstrap(**settings)
