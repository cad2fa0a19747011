"""Region IoU by exact area, against counting squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.errors import ConfigError
from refiner.metrics.boxes import region_iou

corner = st.integers(0, 12)
boxes = st.lists(st.tuples(corner, corner, corner, corner), max_size=6)


def squares(found):
    mask = np.zeros((12, 12), dtype=bool)
    for x0, y0, x1, y1 in found:
        mask[y0:y1, x0:x1] = True
    return mask


@given(boxes, boxes)
def test_areas_are_those_of_counted_squares(first, second):
    ours, theirs = squares(first), squares(second)
    either = (ours | theirs).sum()
    wanted = (ours & theirs).sum() / either if ours.any() and theirs.any() else 0.0
    assert region_iou(first, second) == pytest.approx(wanted, abs=1e-12)


@given(boxes.filter(lambda found: squares(found).any()), st.floats(1e-3, 1e3))
def test_a_set_is_like_itself_in_any_order_unit_and_number_of_pieces(found, unit):
    scaled = [[value * unit for value in box] for box in found]
    assert region_iou(scaled, scaled[::-1]) == pytest.approx(1)
    assert region_iou(found * 3, found) == 1
    assert region_iou(found, found, "matched") == pytest.approx(1)


def test_one_box_cut_into_pieces_gains_nothing_and_loses_nothing():
    truth = [(0, 0, 10, 10)]
    pieces = [(x, y, x + 1, y + 1) for x in range(5) for y in range(10)]
    assert region_iou(pieces, truth) == region_iou([(0, 0, 5, 10)], truth) == 0.5
    assert region_iou(pieces, truth, "matched") < 0.001


def test_matching_is_one_to_one_over_the_larger_number():
    truth = [(0, 0, 2, 2), (4, 0, 6, 2)]
    assert region_iou([(0, 0, 2, 2), (0, 0, 2, 2)], truth, "matched") == 0.5
    assert region_iou([(4, 0, 6, 1), (0, 0, 2, 1)], truth, "matched") == 0.5
    assert region_iou([(0, 0, 2, 2)], truth, "matched") == 0.5


def test_fractions_are_exact_enough():
    assert region_iou([(0.25, 0.25, 0.75, 0.75)], [(0, 0, 1, 1)]) == 0.25


def test_empty_sets_score_nothing():
    for region in ("union", "matched"):
        assert region_iou([], [(0, 0, 1, 1)], region) == 0
        assert region_iou([(0, 0, 1, 1)], [], region) == 0
        assert region_iou([(3, 3, 3, 9)], [(3, 3, 3, 9)], region) == 0
    assert region_iou([], []) == 0


@pytest.mark.parametrize(
    "bad", [[(1, 2, 3)], [(1, 2, 3, 4, 5)], [(0, 0, float("nan"), 1)], [(0, 0, float("inf"), 1)], [None], ["abcd"], [3]]
)
def test_boxes_that_are_none_are_refused(bad):
    with pytest.raises(ConfigError, match="four"):
        region_iou(bad, [(0, 0, 1, 1)])
    with pytest.raises(ConfigError, match="region of union, matched"):
        region_iou([], [], "other")
