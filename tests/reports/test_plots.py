"""The axes of plots: round numbers around all values, also around one value, and labels that differ."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refiner.reports.axes import axis
from refiner.reports.plots import bars, charts, forest, histogram, scatter
from refiner.reports.wording import judge_words, short_seed
from refiner.types import Analysis, Attempt, RefinementResult, Score, Size

VALUES = st.lists(
    st.floats(-1e9, 1e9, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-9), min_size=1, max_size=8
)


@given(VALUES, st.booleans())
@example([0.3], False)
@example([0.1 + 0.2], False)
@example([0.1, 0.1 + 0.2], True)
@example([1.0], False)
@example([0.0], True)
@example([5e8, 5e8 + 1], False)
@example([-0.25, -0.25], True)
@example([0.4885, 0.4886], False)
def test_an_axis_is_round_and_holds_its_values(values: list[float], from_zero: bool) -> None:
    made = axis(values, from_zero=from_zero)
    span = made.high - made.low
    slack = 1e-6 * max(map(abs, [*values, made.low, made.high, 1e-12]))
    assert made.low - slack <= min(values)
    assert max(values) <= made.high + slack
    assert span > 0
    numbers, labels = zip(*made.ticks, strict=True)
    assert (numbers[0], numbers[-1]) == (made.low, made.high)
    assert 2 <= len(labels) <= 6
    assert len(set(labels)) == len(labels)
    steps = np.diff(numbers)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    power = 10 ** math.floor(math.log10(steps[0] * (1 + 1e-9)))
    assert round(steps[0] / power, 3) in (1, 2, 5, 10)
    if max(values) - min(values) > 1e-4 * max(map(abs, values)):
        assert all(len(label) <= 9 for label in labels), labels
    if from_zero:
        assert made.low <= 0 <= made.high


def attempts(*scores: float) -> RefinementResult:
    made = [
        Attempt(
            index=index, action="generate", prompt="a hand", seed=1, image=None, accepted=True, reason="",
            analysis=Analysis(size=Size(8, 8), detector="d"), scores=(Score(name="hps-micro 6", value=score),),
        )
        for index, score in enumerate(scores)
    ]  # fmt: skip
    return RefinementResult(prompt="a hand", attempts=tuple(made), best=0, stop="clean")


def row(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


DRAWN = {
    "one attempt": charts(attempts(0.1 + 0.2)),
    "equal attempts": charts(attempts(0.7, 0.7, 0.7)),
    "many attempts": charts(attempts(*np.linspace(0.1, 0.3, 60).tolist())),
    "one sample": histogram("x", np.array([0.1 + 0.2])),
    "equal samples": histogram("x", np.full(9, 1 / 3)),
    "no flaws": histogram("x", np.zeros(4)),
    "one dot": scatter("x", "y", np.array([0.1]), np.array([0.1])),
    "one bar": bars("x", {"a": [1 / 3]}, ["rate"]),
    "one generator": forest("x", [("a", row(1 / 3))], from_zero=False),
    "interval not known": forest("x", [("a", {"value": 0.7, "low": None, "high": None})], from_zero=True),
    "equal generators": forest("x", [("a", row(0.0)), ("b", row(0.0))], from_zero=True),
}


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
def test_few_or_equal_values_have_sensible_labels(drawn: str) -> None:
    for figure in drawn.split("<figure")[1:]:
        assert "nan" not in figure
        places = [float(x) for x in re.findall(r' (?:cx|x|x1|x2)="([-\d.e+]+)"', figure)]
        assert all(-1 <= x <= 301 for x in places)
        labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', figure)
        assert len(set(labels)) == len(labels)
        for axis_labels in (
            [text for _, y, text in labels if y == "122.0"],
            [text for x, _, text in labels if x == "36.0"],
        ):
            assert len(set(axis_labels)) == len(axis_labels)
            assert len(axis_labels) <= 12
        assert not [text for _, _, text in labels if re.fullmatch(r"-?[\d.]{8,}", text)]


def test_a_single_attempt_is_in_the_middle_and_inside_the_axis() -> None:
    figure = charts(attempts(0.4626478))
    assert 'cx="164.0"' in figure
    assert re.findall(r">([\d.]+)</text>", figure.split("<figure")[-1]) == [
        "0.40",
        "0.45",
        "0.50",
        "0.55",
        "0",
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hps-micro 6", "fit to the prompt (HPS)"),
        ("xswu/HPSv2 compressed", "fit to the prompt (HPS xswu/HPSv2 compressed)"),
        ("clip:openai/clip-vit-base-patch32", "fit to the prompt (CLIP openai/clip-vit-base-patch32)"),
        ("realness:micro:probe", "probability that it is real"),
        ("burden:vlm:some", "freedom from flaws (minus the burden vlm:some)"),
        ("my_judge", "my_judge"),
    ],
)
def test_judges_are_named_in_words(name: str, told: str) -> None:
    assert judge_words(name) == told


@pytest.mark.parametrize(
    ("seed", "told"), [(134, "134"), (999_999_999, "999999999"), (8664947085933113341, "8664…3341")]
)
def test_seeds_are_short(seed: int, told: str) -> None:
    assert short_seed(seed) == told
