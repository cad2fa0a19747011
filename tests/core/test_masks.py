import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from refiner.errors import ConfigError
from refiner.masks import (
    box_of,
    clip_box,
    components,
    dilate,
    feather,
    iou,
    location_words,
    rle_decode,
    rle_encode,
    union,
)
from refiner.types import Size

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
radii = st.integers(0, 6)


@given(masks)
def test_rle_round_trip_survives_json(mask):
    assert np.array_equal(rle_decode(json.loads(json.dumps(rle_encode(mask)))), mask)


def test_rle_is_cocos_column_major_form():
    mask = np.array([[False, True], [False, True], [True, False]])
    assert rle_encode(mask) == {"size": [3, 2], "counts": [2, 3, 1]}
    assert rle_encode(~mask)["counts"][0] == 0


@pytest.mark.parametrize("counts", [[5], [7], [-1, 7], []])
def test_rle_that_does_not_fill_its_size_is_refused(counts):
    with pytest.raises(ConfigError, match="add up to 2 x 3"):
        rle_decode({"size": [2, 3], "counts": counts})


@given(masks)
def test_box_is_tight(mask):
    box = box_of(mask)
    if box is None:
        assert not mask.any()
        return
    x0, y0, x1, y1 = box
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


@given(st.tuples(*[st.floats(-50, 50)] * 4))
def test_clipped_box_lies_in_the_image_and_covers_what_was_inside(box):
    size = Size(20, 30)
    clipped = clip_box(box, size)
    if clipped is None:
        assert min(box[2], 30) <= max(box[0], 0) or min(box[3], 20) <= max(box[1], 0)
        return
    x0, y0, x1, y1 = clipped
    assert 0 <= x0 < x1 <= 30
    assert 0 <= y0 < y1 <= 20
    assert x0 <= max(box[0], 0)
    assert x1 >= min(box[2], 30)


@pytest.mark.parametrize("box", [(0, 0, float("nan"), 1), (0, 0, 1), (0, 0, float("inf"), 1)])
def test_box_of_something_else_is_refused(box):
    with pytest.raises(ConfigError, match="four finite numbers"):
        clip_box(box, Size(10, 10))


@given(masks, radii, radii)
def test_dilation_grows_with_its_radius(mask, small, large):
    small, large = sorted((small, large))
    grown = dilate(mask, large)
    assert not (dilate(mask, small) & ~grown).any()
    assert not (mask & ~grown).any()
    assert np.array_equal(dilate(mask, 0), mask)


def test_dilation_of_a_point_is_a_disc():
    point = np.zeros((11, 11), dtype=bool)
    point[5, 5] = True
    y, x = np.mgrid[:11, :11]
    assert np.array_equal(dilate(point, 3), (x - 5) ** 2 + (y - 5) ** 2 <= 9)


@given(masks, radii)
def test_feather_never_leaves_the_mask(mask, pixels):
    weights = feather(mask, pixels)
    assert weights.dtype == np.float32
    assert weights.shape == mask.shape
    assert np.array_equal(weights > 0, mask)
    assert weights.max(initial=0) <= 1


@given(masks, radii)
def test_feather_is_the_distance_to_the_nearest_pixel_outside(mask, pixels):
    outside = np.argwhere(~mask)
    for y, x in np.argwhere(mask) if len(outside) and pixels else ():
        nearest = np.sqrt(((outside - (y, x)) ** 2).sum(axis=1).min())
        assert feather(mask, pixels)[y, x] == np.float32(min(nearest / (pixels + 1), 1.0))


def test_feather_reaches_one_inside_but_keeps_the_image_border():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:, :12] = True
    weights = feather(mask, 4)
    assert np.allclose(weights[0], [1] * 8 + [0.8, 0.6, 0.4, 0.2] + [0] * 8)


@given(masks)
def test_components_split_the_mask(mask):
    parts = components(mask)
    assert sum(part.sum() for part in parts) == mask.sum()
    assert np.array_equal(union(parts, Size(*mask.shape)), mask)
    assert [part.sum() for part in parts] == sorted((part.sum() for part in parts), reverse=True)
    for part in parts:
        assert not (dilate(part, 1.5) & mask & ~part).any()


@given(masks)
def test_iou_of_a_mask(mask):
    assert iou(mask, mask) == 1
    assert iou(mask, ~mask) == 0
    assert iou(mask, np.ones_like(mask)) == pytest.approx(mask.mean())


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 10, 10), "upper left"),
        ((45, 25, 55, 35), "centre"),
        ((90, 50, 100, 60), "lower right"),
        ((0, 25, 10, 35), "left"),
        ((45, 0, 55, 10), "upper centre"),
        ((99, 59, 100, 60), "lower right"),
    ],
)
def test_location_words(box, words):
    assert location_words(box, Size(60, 100)) == words
