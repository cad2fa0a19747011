"""Edit distance: known values, and the laws of a metric on any texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refiner.metrics.edits import edit_distance, edit_share

TEXTS = st.text("abcé面", max_size=8)


def test_known_distances() -> None:
    known = {("", ""): 0, ("open", "opne"): 2, ("kitten", "sitting"): 3, ("", "abc"): 3, ("欢迎光临", "欢迎先临"): 1}
    assert {pair: edit_distance(*pair) for pair in known} == known
    assert (edit_share("", ""), edit_share("open", ""), edit_share("open", "opne")) == (0, 1, 0.5)


@given(TEXTS, TEXTS, TEXTS)
def test_it_is_a_metric(one: str, other: str, third: str) -> None:
    distance = edit_distance(one, other)
    assert distance == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))
    assert distance <= edit_distance(one, third) + edit_distance(third, other)
    assert 0 <= edit_share(one, other) <= 1


def by_table(one: str, other: str) -> int:
    """The definition: each cell from its three neighbours."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        corner, row[0] = row[0], number
        for at, second in enumerate(other, start=1):
            corner, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, corner + (letter != second))
    return row[-1]


@given(st.text("abc", max_size=90), st.text("abc", max_size=90))
def test_it_is_that_of_the_table(one: str, other: str) -> None:
    assert edit_distance(one, other) == by_table(one, other)
