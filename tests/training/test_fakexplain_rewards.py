"""FakeXplain's rewards: laws that keep a model from earning more by a trick than by better boxes."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.detectors.fakexplain.grammar import DIALECTS, NO_TAG, Answer, Content, Flaw, read, write
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.metrics.boxes import region_iou
from refiner.training.fakexplain import rewards
from refiner.training.fakexplain.rewards import STAGES, Truth
from refiner.types import Size

SHOWN, FORM, WHOLE = Size(300, 400), BoxFormat(), Content()
TRUTH = Truth([(0.1, 0.1, 0.4, 0.5), (0.6, 0.2, 0.9, 0.8)], fake=True)
REAL = Truth([], fake=False)
grid = st.integers(0, 20)
boxes = st.lists(
    st.tuples(grid, grid, grid, grid)
    .filter(lambda box: box[0] < box[2] and box[1] < box[3])
    .map(lambda box: tuple(side / 20 for side in box)),
    min_size=1,
    max_size=5,
    unique=True,
)


def answer(found, fake=True, tags=("shape",)):
    return Answer(tuple(Flaw(f"flaw {number}", box) for number, box in enumerate(found)), tags, fake)


def total(given_answer, truth):
    """The paper's reward at the end of the training."""
    return (
        rewards.omega("progressive", 1.0) * rewards.grounding(given_answer, truth)
        + rewards.verdict(given_answer, truth)
        + rewards.form(given_answer, WHOLE)
    )


def parsed(text, dialect):
    try:
        return read(text, DIALECTS[dialect], form=FORM, shown=SHOWN)
    except UnreadableOutputError:
        return None


def test_covered_areas_are_those_of_a_raster_on_ten_thousand_sets_of_boxes():
    rng = np.random.default_rng(0)

    def drawn():
        corners = np.sort(rng.integers(0, 33, (int(rng.integers(1, 7)), 2, 2)), axis=1).reshape(-1, 4)
        mask = np.zeros((32, 32), dtype=bool)
        for x0, y0, x1, y1 in corners:
            mask[y0:y1, x0:x1] = True
        return corners.tolist(), mask

    for _ in range(10_000):
        (ours, first), (theirs, second) = drawn(), drawn()
        either = (first | second).sum()
        wanted = (first & second).sum() / either if first.any() and second.any() else 0.0
        assert region_iou(ours, theirs) == pytest.approx(wanted, abs=1e-12)


@given(boxes, boxes)
def test_more_boxes_on_the_same_place_never_score_higher(found, true):
    truth, plain = Truth(true, fake=True), answer(found)
    halves = [half for x0, y0, x1, y1 in found for half in ((x0, y0, (x0 + x1) / 2, y1), ((x0 + x1) / 2, y0, x1, y1))]
    assert total(answer(halves), truth) <= total(plain, truth) + 1e-9
    assert total(answer([*found, *found]), truth) <= total(plain, truth) + 1e-9


@given(boxes, boxes)
def test_all_rewards_stay_in_their_ranges(found, true):
    for truth, one in itertools.product([Truth(true, fake=True), REAL], [answer(found), answer([], False, ()), None]):
        assert 0 <= rewards.grounding(one, truth) <= 1
        assert 0 <= rewards.nearest_iou(one.boxes if one else [], truth.boxes) <= 1 + 1e-9
        for progress in (0.0, 0.4, 1.0):
            assert math.isfinite(rewards.staged(one, truth, WHOLE, progress))


def test_a_perfect_answer_earns_most():
    assert total(answer(TRUTH.boxes), TRUTH) == 3
    assert total(answer([], False, ()), REAL) == 3
    assert total(answer(TRUTH.boxes, fake=True), REAL) == 1  # only its form is right
    assert total(None, TRUTH) == total(None, REAL) == 0


def test_the_relaxed_overlap_forgives_a_tenth():
    box = (0.0, 0.0, 1.0, 1.0)
    assert rewards.grounding(answer([(0.0, 0.0, 0.95, 1.0)]), Truth([box], fake=True)) == 1
    assert rewards.grounding(answer([(0.0, 0.0, 0.5, 1.0)]), Truth([box], fake=True)) == pytest.approx(0.55)


@pytest.mark.parametrize(("name", "start", "end"), [("progressive", 0.5, 1.0), ("half", 0.5, 0.5), ("full", 1.0, 1.0)])
def test_the_weight_of_the_boxes_is_linear(name, start, end):
    for progress in (0.0, 0.25, 1.0):
        assert rewards.omega(name, progress) == pytest.approx(start + (end - start) * progress)
    with pytest.raises(ConfigError, match="progressive, half, full"):
        rewards.omega(f"{name}s", 0.0)


BROKEN = {
    "an empty think": "<think></think><tag>a</tag><verdict>fake</verdict>",
    "an empty tag": "<think>- a [0, 0, 9, 9]</think><tag></tag><verdict>fake</verdict>",
    "an empty verdict": "<think>- a [0, 0, 9, 9]</think><tag>a</tag><verdict></verdict>",
    "think twice": "<think>- a [0, 0, 9, 9]</think><think>b</think><tag>a</tag><verdict>fake</verdict>",
    "tag twice": "<think>- a [0, 0, 9, 9]</think><tag>a</tag><tag>b</tag><verdict>fake</verdict>",
    "two verdicts": "<think>- a [0, 0, 9, 9]</think><tag>a</tag><verdict>fake</verdict><verdict>real</verdict>",
    "text outside": "Sure! <think>- a [0, 0, 9, 9]</think><tag>a</tag><verdict>fake</verdict>",
    "another order": "<verdict>fake</verdict><think>- a [0, 0, 9, 9]</think><tag>a</tag>",
    "cut off": "<think>- a [0, 0, 9, 9]</think><tag>a</tag><verdict>fake",
    "nested": "<think><think>- a [0, 0, 9, 9]</think></think><tag>a</tag><verdict>fake</verdict>",
    "another word": "<think>- a [0, 0, 9, 9]</think><tag>a</tag><verdict>fake or real</verdict>",
}
"""All of them unreadable."""
UNFINISHED = {
    "no box": "<think>- a</think><tag>a</tag><verdict>fake</verdict>",
    "no flaw": "<think>hm</think><tag>a</tag><verdict>fake</verdict>",
    "no tag": f"<think>- a [0, 0, 9, 9]</think><tag>{NO_TAG}</tag><verdict>fake</verdict>",
    "no description": "<think>[0, 0, 9, 9]</think><tag>a</tag><verdict>fake</verdict>",
    "a box without area": "<think>- a [5, 5, 5, 5]</think><tag>a</tag><verdict>fake</verdict>",
    "a box outside": "<think>- a [0, 0, 9, 5000]</think><tag>a</tag><verdict>fake</verdict>",
    "a box of three": "<think>- a [0, 0, 9]</think><tag>a</tag><verdict>fake</verdict>",
    "NaN": "<think>- a [0, 0, nan, 9]</think><tag>a</tag><verdict>fake</verdict>",
    "flaws in a real image": "<think>- a [0, 0, 9, 9]</think><tag>none</tag><verdict>real</verdict>",
    "one box twice": "<think>- a [0, 0, 9, 9]\n- b [0, 0, 9, 9]</think><tag>a</tag><verdict>fake</verdict>",
}
"""Readable, but not of the whole form."""


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_empty_repeated_or_misplaced_elements_earn_nothing(text):
    found = parsed(text, "paper")
    assert found is None
    assert total(found, TRUTH) == total(found, REAL) == 0


@pytest.mark.parametrize("text", UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_answers_earn_nothing_for_their_form(text):
    found = parsed(text, "paper")
    assert found is not None
    assert rewards.form(found, WHOLE) == 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ten_thousand_hostile_answers_raise_nothing_and_earn_no_form(dialect):
    chance = random.Random(f"hostile {dialect}")
    whole = write(answer(TRUTH.boxes), DIALECTS[dialect], form=FORM, shown=SHOWN)
    pieces = [
        "<think>", "</think>", "<tag>", "</tag>", "<verdict>", "</verdict>", "fake", "generated", "real", "none", "- ",
        "[", "]", ", ", "9" * 400, "-1", "1e9", "nan", "\n", "\0", "\u202e", "<|box_start|>", "<ref>", "</box>", "{}",
        "\ud800", "[1, 2, 3, 4]", "[[4, 3, 2, 1]]", *BROKEN.values(), *UNFINISHED.values(),
        json.dumps({"verdict": "fake"}),
    ]  # fmt: skip
    formed = 0
    for _ in range(10_000):
        if chance.random() < 0.5:
            text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 14)))
        else:
            cut, end = sorted(chance.randrange(len(whole) + 1) for _ in range(2))
            text = whole[:cut] + chance.choice(pieces) * chance.randrange(3) + whole[end:]
        found = parsed(text, dialect)
        for truth in (TRUTH, REAL):
            assert 0 <= total(found, truth) <= 3
        if rewards.form(found, WHOLE):
            formed += 1
            again = write(found, DIALECTS[dialect], form=FORM, shown=SHOWN)
            assert rewards.form(parsed(again, dialect), WHOLE)
    assert formed < 1000  # some cuts leave a whole answer


def test_the_code_s_overlap_has_no_area_where_boxes_do_not_meet():
    apart = [(0.0, 0.0, 0.1, 0.1)], [(0.8, 0.8, 0.9, 0.9)]
    assert rewards.nearest_iou(*apart) == 0
    assert rewards.nearest_iou([], []) == rewards.nearest_iou([(0, 0, 1, 1)], []) == 1


@given(boxes)
def test_the_code_s_overlap_does_not_punish_more_boxes(true):
    """As published: this is why it is not the default."""
    assert rewards.nearest_iou(true, true) == pytest.approx(1)
    assert rewards.nearest_iou([*true, (0.0, 0.0, 1.0, 1.0)], true) == pytest.approx(1)


@pytest.mark.parametrize("number", range(3))
def test_the_code_s_stages_follow_each_other_in_thirds(number):
    stage, progress = STAGES[number], (number + 0.5) / 3
    best = stage.base + stage.overlap + stage.label[0] + stage.form[0]
    worst = stage.base + stage.label[1] + stage.form[1]
    assert rewards.staged(answer(TRUTH.boxes), TRUTH, WHOLE, progress) == pytest.approx(best)
    assert rewards.staged(None, TRUTH, WHOLE, progress) == pytest.approx(worst)
