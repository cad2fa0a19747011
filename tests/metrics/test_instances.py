"""Instance matching: X-AIGD's rule against a slow reading of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from refiner.data.problems import count_problems
from refiner.errors import ConfigError, InputError
from refiner.metrics.instances import InstanceCounts, find_instances, instance_row, match_boxes, read_boxes

HEADER = "generator,uid,category,x_min,y_min,x_max,y_max\n"


def blocks(*boxes, size=(40, 40)):
    mask = np.zeros(size, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def instances_slowly(mask):
    """Pixels belong together where their 5x5 neighbourhoods touch or overlap: a step of at most 5 in each direction."""
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        part, edge = set(), [min(left)]
        left.discard(edge[0])
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(b, a) for b, a in left if abs(b - y) <= 5 and abs(a - x) <= 5}
            left -= near
            edge.extend(near)
        found.append(part)
    return found


def matched_slowly(mask, boxes, overlap):
    parts = instances_slowly(mask)
    height, width = mask.shape
    hit_boxes, hit_parts, invalid = set(), set(), 0
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        inside = 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and int(x0) < int(x1) and int(y0) < int(y1)
        if not inside:
            invalid += 1
            continue
        pixels = {(y, x) for y in range(int(y0), int(y1)) for x in range(int(x0), int(x1))}
        for at, part in enumerate(parts):
            if len(pixels & part) / len(pixels) > overlap:
                hit_boxes.add(number)
                hit_parts.add(at)
    return InstanceCounts(
        tp=len(hit_parts),
        fp=len(boxes) - len(hit_boxes),
        fn=len(parts) - len(hit_parts),
        invalid=invalid,
        images=1,
        silent=int(not boxes),
    )


corners = st.tuples(*[st.integers(-2, 22).map(lambda value: value + 0.5)] * 2, *[st.integers(-2, 22)] * 2)


@settings(max_examples=60)
@given(
    arrays(np.bool_, (20, 20), elements=st.sampled_from([False] * 19 + [True])),
    st.lists(corners, max_size=6),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_boxes_are_matched_by_the_rule(mask, boxes, overlap):
    assert match_boxes(mask, boxes, overlap) == matched_slowly(mask, boxes, overlap)


def test_near_parts_are_one_instance_and_keep_their_own_pixels():
    # cv2.dilate with a 5x5 rectangle and cv2.connectedComponents (5.0.0) also make four of these five.
    mask = blocks((2, 2, 6, 6), (9, 2, 12, 6), (20, 20, 24, 24), (29, 24, 32, 30), (0, 35, 1, 36))
    labels, count = painted(mask)
    assert count == len(instances_slowly(mask))
    assert np.array_equal(labels > 0, mask)
    assert labels[2, 2] == labels[2, 9]


def painted(mask):
    """Number of the instance of each pixel, 0 for none; and how many there are."""
    found = find_instances(mask)
    labels = np.zeros(mask.shape, dtype=int)
    for row, start, stop, owner in zip(*found[:4], strict=True):
        assert not labels[row, start:stop].any()
        labels[row, start:stop] = owner + 1
    return labels, found.number


@pytest.mark.parametrize("share", [0.0005, 0.005, 0.02, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(211, 187), (1, 300), (300, 1), (1, 1)])
def test_instances_are_the_parts_of_the_spread_mask(shape, share):
    """By scipy's filters, on masks of single pixels and of blobs, up to the image's border."""
    rng = np.random.default_rng(int(share * 10_000))
    noise = rng.random(shape) < share
    blobs = ndimage.maximum_filter(rng.random(shape) < share / 40, size=9)
    for mask in (noise, blobs):
        spread = ndimage.maximum_filter(mask, size=5, mode="constant")
        wanted, count = ndimage.label(spread, structure=np.ones((3, 3)))
        labels, found = painted(mask)
        assert found == count
        assert np.array_equal(labels > 0, mask)
        pairs = set(zip(labels[mask].tolist(), wanted[mask].tolist(), strict=True))
        assert len(pairs) == count, "the same parts, whatever their numbers"


def test_the_official_example():
    mask = blocks((1, 1, 4, 4), size=(10, 10))
    assert match_boxes(mask, [(1, 1, 5, 5)], 0.5).tp == 1
    assert match_boxes(mask, [(1, 1, 5, 5)], 0.6).tp == 0


def test_matching_is_not_one_to_one():
    mask = blocks((0, 0, 10, 10), (20, 0, 30, 10))
    twice = match_boxes(mask, [(0, 0, 5, 5), (2, 2, 8, 8)])
    assert (twice.tp, twice.fp, twice.fn) == (1, 0, 1)
    both = match_boxes(mask, [(5, 0, 25, 10)], overlap=0.2)
    assert (both.tp, both.fp, both.fn) == (2, 0, 0)


def test_perfect_nothing_and_nonsense():
    mask = blocks((3, 3, 9, 9), (20, 20, 30, 30))
    perfect = match_boxes(mask, [(3, 3, 9, 9), (20, 20, 30, 30)])
    assert (perfect.precision, perfect.recall, perfect.f1) == (1, 1, 1)
    missed = match_boxes(mask, [])
    assert (missed.fn, missed.silent, missed.f1) == (2, 1, 0)
    assert match_boxes(blocks(), []) == InstanceCounts(images=1, silent=1)
    outside = [(-1, 0, 5, 5), (0, 0, 41, 5), (5, 5, 5, 9), (5.1, 5, 5.9, 9), (float("nan"), 0, 5, 5)]
    assert match_boxes(mask, outside).invalid == len(outside)
    alone = match_boxes(blocks(), [*outside, (0, 0, 5, 5)])
    assert (alone.invalid, alone.fp) == (len(outside), len(outside) + 1), "counted without any instance, too"
    with pytest.raises(ConfigError, match="overlap"):
        match_boxes(mask, [], 1.5)


def test_rows_bear_the_official_names():
    counts = InstanceCounts(tp=1, fp=1, fn=3, invalid=1, images=2, silent=1)
    row = instance_row(counts + InstanceCounts(), "all", "low-level-color", 0.5)
    assert row == {
        "generator": "all",
        "category": "low-level-color",
        "P@0.5": 0.5,
        "R@0.5": 0.25,
        "F1@0.5": pytest.approx(1 / 3),
        "TP": 1,
        "FP": 1,
        "FN": 3,
        "evaluated_images": 2,
        "zero_prediction_images": 1,
        "invalid_prediction_boxes": 1,
    }


def test_rows_that_cannot_be_used_are_named_with_their_line(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(
        HEADER
        + "g,u,low-level-color,1,2,3,4\n"
        + "g,u,low-level-text,1,2,3,4\n"
        + "g,u,low-level-color,1,2,three,4\n"
        + "g,u,low-level-color,1,2\n"
        + "g,u,low-level-color,1,2,nan,4\n"
        + "g,u,low-level-color,1.5,2,3,4,surplus\n"
    )
    problems = []
    boxes = read_boxes(path, problems)
    assert [box[:2] for box in boxes["g", "u", "low-level-color"]] == [(1, 2), (1, 2), (1.5, 2)]
    assert count_problems(problems) == {"bad_box": 2, "not_finite": 1, "unknown_category": 1}
    assert [problem.where.split(",")[0] for problem in problems] == ["line 3", "line 4", "line 5", "line 6"]


@pytest.mark.parametrize(
    "content", [b"", b"generator,uid\n", b"\x89PNG\r\n\x1a\n\xff", b'generator,uid,"category', b"\xff\xfeg\x00"]
)
def test_files_that_are_no_such_table_are_refused(tmp_path, content):
    path = tmp_path / "boxes.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"boxes\.csv"):
        read_boxes(path, [])
    with pytest.raises(InputError, match="nowhere"):
        read_boxes(tmp_path / "nowhere.csv", [])
