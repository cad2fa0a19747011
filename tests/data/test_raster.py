"""Polygons, nearest neighbours and crops: OpenCV's own pixels, and a slow reading of the same rules."""

import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.data.raster import centre_crop, fill_polygons, resize_nearest
from refiner.errors import ConfigError
from refiner.types import Size


def numbers(seed: int) -> Iterator[int]:
    while True:
        seed = (seed * 1103515245 + 12345) % 2**31
        yield seed >> 8


def polygon(seed: int) -> tuple[list[list[float]], Size]:
    draw = numbers(seed)
    height, width = 20 + next(draw) % 100, 20 + next(draw) % 100
    points = [[next(draw) % 1600 / 10 - 20, next(draw) % 1600 / 10 - 20] for _ in range(3 + next(draw) % 12)]
    return points, Size(height, width)


# crc32 of np.packbits of cv2.fillPoly(mask, [int32 points clipped to the image], 255) > 0, of polygon(0) to
# polygon(23); opencv-python-headless 4.14.0 and 5.0.0 agree.
FILLED_BY_OPENCV = [
    *(3228867723, 3445380828, 3540243039, 3503889511, 3456100739, 1227739811, 3801532148, 2315395180),
    *(155301487, 3095866450, 1218072019, 2099364099, 3456271848, 791283873, 1182591782, 3466677024),
    *(2407227717, 3670120408, 681829147, 3950985225, 1220543703, 4161961560, 1253247240, 1105577437),
]


@pytest.mark.parametrize(("seed", "checksum"), list(enumerate(FILLED_BY_OPENCV)))
def test_polygons_are_filled_as_opencv_fills_them(seed, checksum):
    points, size = polygon(seed)
    assert zlib.crc32(np.packbits(fill_polygons([points], size)).tobytes()) == checksum


# The same of the corners as they are, some of them outside the image; both versions agree.
UNCLIPPED_BY_OPENCV = [
    *(976664645, 1063164383, 3549320684, 4095638963, 2356973454, 2377642767, 18412780, 599285021),
    *(3800323842, 2982777347, 2045204085, 695712466, 1664845734, 3023923002, 24501823, 1070384702),
    *(3503839915, 2977543942, 2534670543, 2280005388, 516997001, 1259936723, 2525116459, 924808734),
]


@pytest.mark.parametrize(("seed", "checksum"), list(enumerate(UNCLIPPED_BY_OPENCV)))
def test_polygons_that_leave_the_picture_are_cut_as_opencv_cuts_them(seed, checksum):
    points, size = polygon(seed)
    assert zlib.crc32(np.packbits(fill_polygons([points], size, clip=False)).tobytes()) == checksum


@given(st.lists(st.tuples(st.floats(0, 19.99), st.floats(0, 14.99)), min_size=3, max_size=8))
def test_clipping_changes_nothing_inside_the_picture(points):
    size = Size(15, 20)
    assert np.array_equal(fill_polygons([points], size), fill_polygons([points], size, clip=False))


far = st.one_of(st.floats(-30, 30), st.floats(-(2**31) + 1, 2**31 - 1))


@given(st.lists(st.tuples(far, far), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9))
def test_unclipped_polygons_of_any_size_are_drawn_in_little_time(points, height, width):
    drawing = fill_polygons([points], Size(height, width), clip=False)
    assert drawing.shape == (height, width)
    for x, y in points:
        if 0 <= x < width and 0 <= y < height:
            assert drawing[int(y), int(x)]


def test_points_and_lines_are_drawn_unclipped():
    assert np.argwhere(fill_polygons([[[3, 2]], [[-4, -4]]], Size(6, 8), clip=False)).tolist() == [[2, 3]]
    assert drawn(fill_polygons([[[-3, 1], [6, 4]]], Size(6, 8), clip=False)) == [
        "........", "........", "##......", "..###...", ".....##.", "........"
    ]  # fmt: skip


@pytest.mark.parametrize("points", [[], [[1, 2], [3, float("inf")]], [[2.0**31, 0]], [[0, -1e300], [1, 1], [2, 2]]])
def test_points_that_opencv_cannot_take_are_refused_unclipped(points):
    with pytest.raises(ConfigError, match="leave this polygon out"):
        fill_polygons([points], Size(9, 9), clip=False)


def test_a_dent_and_a_crossing_as_opencv_draws_them():
    dented = fill_polygons([[[1.9, 0.9], [10.5, 3.2], [4.4, 8.8], [6, 2]]], Size(9, 12))
    assert drawn(dented) == [
        ".##.........",
        "...###......",
        ".....####...",
        "......#####.",
        ".....#####..",
        ".....####...",
        ".....###....",
        "....##......",
        "....#.......",
    ]
    crossed = fill_polygons([[[0, 0], [8, 6], [8, 0], [0, 6]]], Size(7, 9))
    half = ["#.......#", "###....##", "####.####"]
    assert drawn(crossed) == [*half, "#########", *reversed(half)]


def drawn(mask):
    return ["".join(".#"[int(pixel)] for pixel in row) for row in mask]


def filled_slowly(points, size):
    """The rules pixel by pixel: even-odd between whole columns, and every line of the outline."""
    corners = [(min(max(int(x), 0), size.width - 1), min(max(int(y), 0), size.height - 1)) for x, y in points]
    mask = np.zeros(size, dtype=bool)
    edges = list(zip([corners[-1], *corners], corners, strict=False))
    for row in range(size.height):
        crossings = []
        for (x0, y0), (x1, y1) in edges:
            (xa, ya), (xb, yb) = sorted([(x0, y0), (x1, y1)], key=lambda point: point[1])
            if ya <= row < yb:
                slope = abs((xb - xa) * 65536) // (yb - ya)
                crossings.append(xa * 65536 + (row - ya) * (slope if xb >= xa else -slope))
        crossings.sort()
        for first, last in zip(crossings[::2], crossings[1::2], strict=True):
            for column in range(size.width):
                mask[row, column] |= first <= column * 65536 <= last
    for first, last in edges:
        for x, y in line_slowly(*sorted([first, last])):
            mask[y, x] = True
    return mask


def line_slowly(first, last):
    (x, y), dx, dy = first, last[0] - first[0], last[1] - first[1]
    step, steep = (1 if dy >= 0 else -1), abs(dy) > dx
    long, short = (abs(dy), dx) if steep else (dx, abs(dy))
    error = long - 2 * short
    for _ in range(long + 1):
        yield x, y
        aside = error < 0
        error += 2 * long * aside - 2 * short
        x += 1 if not steep or aside else 0
        y += step if steep or aside else 0


coordinate = st.floats(-5, 25)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8), st.integers(1, 20), st.integers(1, 20))
def test_polygons_follow_the_rules(points, height, width):
    size = Size(height, width)
    assert np.array_equal(fill_polygons([points], size), filled_slowly(points, size))


def test_several_polygons_are_joined():
    first, second = [[1, 1], [6, 1], [6, 6], [1, 6]], [[4, 4], [9, 4], [9, 9], [4, 9]]
    size = Size(12, 12)
    joined = fill_polygons([first, second], size)
    assert np.array_equal(joined, fill_polygons([first], size) | fill_polygons([second], size))
    assert joined[5, 5]
    assert not fill_polygons([], size).any()


@pytest.mark.parametrize("points", [[], [[1, 2], [3, 4]], [[1], [2], [3]], [[1, 2], [3, 4], [5, float("nan")]]])
def test_points_that_make_no_polygon_are_refused(points):
    with pytest.raises(ConfigError, match="three finite points"):
        fill_polygons([points], Size(9, 9))


# Where cv2.resize (INTER_NEAREST, 4.14.0 and 5.0.0) departs from old * place // new: place and the pixel it picks.
@pytest.mark.parametrize(
    ("old", "new", "picked"),
    [
        (186, 256, {128: 92}),
        (198, 256, {128: 98}),
        (372, 256, {64: 92, 128: 185, 192: 278}),
        (420, 256, {64: 104, 128: 209, 192: 314}),
        (98, 518, {}),
    ],
)
def test_nearest_neighbours_are_opencvs(old, new, picked):
    wanted = np.arange(new) * old // new
    for place, pixel in picked.items():
        wanted[place] = pixel
    bits = [(np.arange(old) >> bit) % 2 == 1 for bit in range(12)]
    across = [resize_nearest(np.tile(row, (3, 1)), Size(3, new))[1] for row in bits]
    down = [resize_nearest(np.tile(row, (3, 1)).T, Size(new, 3))[:, 1] for row in bits]
    for got in (across, down):
        assert np.array_equal(sum(row.astype(int) << bit for bit, row in enumerate(got)), wanted)


def test_crops_start_at_half_of_the_rest_rounded_down():
    mask = np.zeros((7, 8), dtype=bool)
    mask[1, 2] = True
    cropped = centre_crop(mask, Size(4, 4))
    assert np.argwhere(cropped).tolist() == [[0, 0]]
    with pytest.raises(ConfigError, match="to crop"):
        centre_crop(mask, Size(8, 8))
