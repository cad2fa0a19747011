"""Kappas against independent references, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from refiner.metrics.agreement import cohen_kappa, fleiss_kappa

ANSWERS = ("ACCEPT", "REJECT", "UNSURE")
FLEISS_1971 = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""A worked example that is widely reprinted: 14 raters, 10 subjects, 5 categories; kappa 0.210, agreement 0.378."""

pairs = st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS)), min_size=1, max_size=60)


@given(pairs)
def test_cohens_kappa_is_that_of_scikit_learn(said):
    first, second = map(list, zip(*said, strict=True))
    kappa = cohen_kappa(first, second)
    assert kappa.items == len(said)
    assert kappa.agreement == pytest.approx(np.mean([one == other for one, other in said]), abs=1e-12)
    if len({*first, *second}) == 1:
        assert kappa.value is None
        assert kappa.undefined == "all answers are the same"
    else:
        assert kappa.value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        assert kappa.undefined == ""


def test_fleiss_kappa_is_that_of_the_worked_example():
    kappa = fleiss_kappa(np.array(FLEISS_1971))
    assert kappa.value == pytest.approx(0.210, abs=5e-4)
    assert kappa.agreement == pytest.approx(0.378, abs=5e-4)
    assert kappa.items == 10


@given(pairs)
def test_fleiss_kappa_of_two_is_scotts_pi(said):
    """Scott's pi: as Cohen's kappa, but with the frequencies of both annotators together."""
    counts = np.array([[pair.count(answer) for answer in ANSWERS] for pair in said])
    shares = counts.sum(axis=0) / (2 * len(said))
    observed, expected = np.mean([one == other for one, other in said]), (shares**2).sum()
    kappa = fleiss_kappa(counts)
    if expected == 1:
        assert (kappa.value, kappa.low, kappa.high) == (None, None, None)
    else:
        assert kappa.value == pytest.approx((observed - expected) / (1 - expected), abs=1e-12)


@given(pairs, st.randoms())
def test_the_order_of_items_and_annotators_changes_nothing(said, random):
    first, second = map(list, zip(*said, strict=True))
    shuffled = random.sample(said, len(said))
    other = cohen_kappa(*map(list, zip(*shuffled, strict=True)))
    assert other.value == pytest.approx(cohen_kappa(second, first).value, abs=1e-12)


def test_without_items_there_is_no_value():
    for kappa, why in ((cohen_kappa([], []), "both"), (fleiss_kappa(np.zeros((0, 3), dtype=np.int64)), "all")):
        assert (kappa.value, kappa.items, kappa.agreement) == (None, 0, None)
        assert kappa.undefined == f"no item was judged by {why}"


def test_an_interval_holds_the_value_and_shrinks_with_the_items():
    rng = np.random.default_rng(3)
    widths = []
    for items in (40, 4000):
        first = rng.choice(ANSWERS, items)
        second = np.where(rng.random(items) < 0.7, first, rng.choice(ANSWERS, items))
        kappa = cohen_kappa(first.tolist(), second.tolist())
        assert kappa.low < kappa.value < kappa.high
        widths.append(kappa.high - kappa.low)
    assert widths[1] < 0.06 < 0.3 < widths[0]


def test_where_many_resamples_have_no_kappa_there_is_no_interval():
    kappa = cohen_kappa(["ACCEPT"] * 9 + ["REJECT"], ["ACCEPT"] * 9 + ["REJECT"])
    assert kappa.value == 1
    assert (kappa.low, kappa.high) == (None, None)


def test_items_with_different_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match="same number of answers"):
        fleiss_kappa(np.array([[2, 1], [1, 1]]))
