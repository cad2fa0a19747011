"""Masks from boxes and points without a model: the rules for all grounders, the fallbacks, and many bad prompts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refiner.detectors.grounding import load_grounder
from refiner.detectors.grounding.base import Grounder
from refiner.errors import BadAnswerError, InputError, ModelNotFoundError, UserError
from refiner.masks import iou
from refiner.micro.world import SIZE, render, sample_scene

FALLBACKS = ["box", "grabcut"]


@pytest.fixture(params=FALLBACKS)
def grounder(request):
    return load_grounder(request.param)


def picture(seed=0, width=SIZE, height=SIZE):
    pixels = np.asarray(render(sample_scene(np.random.default_rng(seed))))
    return Image.fromarray(np.resize(pixels, (height, width, 3)))


def disc(seed):
    """An image with a disc, the mask of the disc, and a loose box around it."""
    rng = np.random.default_rng(seed)
    pixels = np.array(render(sample_scene(rng, count=1)))
    radius = rng.uniform(7, 14)
    x, y = (rng.choice([radius + 5, SIZE - radius - 5]) for _ in range(2))
    down, across = np.mgrid[:SIZE, :SIZE] + 0.5
    mask = (across - x) ** 2 + (down - y) ** 2 <= radius**2
    pixels[mask] = rng.integers(0, 256, 3)
    x0, y0, x1, y1 = radius * rng.uniform(1.15, 1.35, 4)
    return Image.fromarray(pixels), mask, (x - x0, y - y0, x + x1, y + y1)


def test_colours_recover_a_drawn_disc_from_its_loose_box():
    grounder, box = load_grounder("grabcut"), load_grounder("box")
    found, filled = [], []
    for seed in range(20):
        image, mask, place = disc(seed)
        segment = grounder.segment(image, boxes=[place])[0]
        assert segment.source == "grabcut"
        found.append(iou(segment.mask, mask))
        filled.append(iou(box.segment(image, boxes=[place])[0].mask, mask))
    assert min(found) >= 0.8, found
    assert np.mean(filled) < 0.6


def test_a_point_says_which_of_two_things_is_meant():
    pixels = np.full((60, 60, 3), 240, dtype=np.uint8)
    pixels[10:30, 10:50], pixels[30:50, 10:50] = (200, 30, 30), (30, 30, 200)
    image = Image.fromarray(pixels)
    both = load_grounder("grabcut").segment(image, boxes=[(6, 6, 54, 54)])[0].mask
    upper = load_grounder("grabcut").segment(image, boxes=[(6, 6, 54, 54)], points=[[(30, 20, True), (30, 40, False)]])
    assert both[20, 30]
    assert both[40, 30]
    assert upper[0].mask[20, 30]
    assert not upper[0].mask[40, 30]


def test_points_alone_give_a_mask_around_them(grounder):
    image, mask, _ = disc(3)
    rows, columns = np.nonzero(mask)
    point = (float(columns.mean()), float(rows.mean()), True)
    found = grounder.segment(image, points=[[point]])[0].mask
    assert found[round(point[1]), round(point[0])]
    assert (found & ~mask).sum() <= 0.2 * found.sum()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_any_mode_is_read_as_rgb(grounder, mode):
    image = picture().convert("L").convert(mode) if mode == "I;16" else picture().convert(mode)
    ours, rgb = (grounder.segment(each, boxes=[(10, 10, 60, 60)])[0] for each in (image, image.convert("RGB")))
    assert (ours.mask == rgb.mask).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 4000), (4000, 5), (1, 300), (17, 2)])
def test_masks_have_the_size_of_any_image(grounder, size):
    image = picture(width=size[0], height=size[1])
    near = (-0.04 * size[0], -0.04 * size[1], 1.04 * size[0], 1.04 * size[1])
    boxes = [(0, 0, *size), (0.2, 0.2, 0.7, 0.7), near]
    for segment in grounder.segment(image, boxes=boxes):
        assert segment.mask.shape == size[::-1]
        assert segment.mask.dtype == np.bool_
        assert segment.mask.any()


numbers = st.one_of(
    st.floats(-200, 300), st.integers(-5, 120), st.sampled_from([math.nan, math.inf, -math.inf, 10**400, None, "a"])
)


@settings(max_examples=40)
@given(boxes=st.lists(st.lists(numbers, min_size=3, max_size=5), max_size=4), kind=st.sampled_from(FALLBACKS))
def test_any_boxes_give_masks_in_their_order_or_the_one_error(boxes, kind):
    try:
        segments = load_grounder(kind).segment(picture(), boxes=boxes)
    except BadAnswerError:
        return
    assert len(segments) == len(boxes)
    for (x0, y0, x1, y1), segment in zip(boxes, segments, strict=True):
        rows, columns = np.nonzero(segment.mask)
        assert x0 - 11 - (x1 - x0) / 9 <= columns.min() <= columns.max() <= x1 + 11 + (x1 - x0) / 9
        assert y0 - 11 - (y1 - y0) / 9 <= rows.min() <= rows.max() <= y1 + 11 + (y1 - y0) / 9


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (9, 9, 5, 5), (-9, -9, 0, 0), (96, 0, 99, 9), (0, 0, math.nan, 5), (0, 0, math.inf, 5)]
    + [(-50, -50, 9999, 9999), (5, 5, 20, 1.06 * SIZE), (-0.06 * SIZE, 5, 20, 20)]
    + [(), (1, 2, 3), (1, 2, 3, 4, 5), "1234", None, 7, (None,) * 4, (0, 0, 10**400, 5), (10**400,) * 4],
)
def test_unusable_boxes_are_refused_in_one_sentence(grounder, box):
    with pytest.raises(BadAnswerError, match=r"Expected a box .* got .*correct it") as caught:
        grounder.segment(picture(), boxes=[(1, 1, 9, 9), box])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "points", [[(-1, 5, True)], [(5, 96, True)], [(math.nan, 5, True)], [(5, 5)], [5], [("a", 5, True)], [None]]
)
def test_unusable_points_are_refused_in_one_sentence(grounder, points):
    with pytest.raises(BadAnswerError, match=r"Expected points"):
        grounder.segment(picture(), points=[points])


def test_points_without_a_box_must_hit_the_thing(grounder):
    for points in ([], [(5, 5, False)]):
        with pytest.raises(BadAnswerError, match=r"Expected a box or at least one point"):
            grounder.segment(picture(), points=[points])


def test_lists_of_different_length_are_refused(grounder):
    with pytest.raises(InputError, match=r"points of each of 2 boxes"):
        grounder.segment(picture(), boxes=[(0, 0, 5, 5)] * 2, points=[[]])


def test_nothing_asked_gives_nothing(grounder):
    assert grounder.segment(picture()) == []
    assert grounder.segment(picture(), boxes=[]) == []


def test_ten_thousand_boxes_are_kept_as_their_windows(grounder):
    """Storing the masks of the whole image would take 10 GB."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 1000, (60, 2))
    boxes = [(x, y, x + 6, y + 6) for x, y in corners.tolist()] * 167
    segments = grounder.segment(picture(width=1024, height=1024), boxes=boxes)
    assert len(segments) == len(boxes)
    assert sum(segment.patch.nbytes for segment in {id(one): one for one in segments}.values()) < 60 * 200
    assert all(segment.size == (1024, 1024) for segment in segments)


def test_fallbacks_say_that_they_are(grounder):
    assert isinstance(grounder, Grounder)
    assert "fallback" in grounder.name
    assert grounder.encoded == 0
    whole = grounder.segment(picture(), boxes=[(0, 0, SIZE, SIZE)])[0]
    assert whole.source == "box"
    assert whole.mask.all()


@pytest.mark.parametrize("flat", [0, 255])
def test_a_flat_picture_gives_the_box(flat):
    image = Image.new("RGB", (50, 50), (flat,) * 3)
    segment = load_grounder("grabcut").segment(image, boxes=[(10, 12, 30, 40)])[0]
    assert segment.mask[20, 20]
    assert not segment.mask[:8].any()


@pytest.mark.parametrize("grounder_id", ["", "sam:", "sam2:nowhere/at/all", "grabcat:", "./nowhere", "sam:x.pth"])
def test_unknown_ids_are_one_sentence_that_names_the_known_ones(grounder_id):
    with pytest.raises(ModelNotFoundError, match=r"Known grounders: box, grabcut, sam:<path>, sam2:<path>"):
        load_grounder(grounder_id)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a transformers folder"):
        load_grounder(tmp_path)
