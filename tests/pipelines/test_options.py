"""Settings as in other detailers: holes, areas, order, merging, strength by severity and area."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.masks import dilate, union
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.pipelines.strategies import Patch, plan_patches, repaintable, strength_of
from refiner.protocols import InpaintJob, PaintJob
from refiner.taxonomy import Category
from refiner.types import Analysis, Calls, Mask, RefinementResult, Region, Size

SIZE = Size(60, 80)
PLAIN = RefineConfig(dilate=0.0, max_regions=100)


def region(x0: int, y0: int, x1: int, y1: int, severity: float = 1.0, mask: Mask | None = None) -> Region:
    return Region(mask=mask, box=(x0, y0, x1, y1), name=f"{x0},{y0}", category=Category.ANATOMY, severity=severity)


def names(patches: Sequence[Patch]) -> list[str]:
    return [patch.region.name for patch in patches]


@st.composite
def regions(draw: st.DrawFn) -> Region:
    x0, y0 = draw(st.integers(0, SIZE.width - 1)), draw(st.integers(0, SIZE.height - 1))
    x1, y1 = draw(st.integers(x0 + 1, SIZE.width)), draw(st.integers(y0 + 1, SIZE.height))
    return region(x0, y0, x1, y1, draw(st.sampled_from([0.25, 0.5, 1.0])))


def slowly_planned(found: Sequence[Region], config: RefineConfig) -> list[tuple[str, bytes]]:
    """The plan computed by its definition, on whole masks."""
    patches: list[tuple[Region, Mask]] = []
    for one in sorted(found, key=lambda each: each.severity * each.score, reverse=True):
        mask = dilate(one.pixels(SIZE), config.dilate * max(SIZE))
        free = mask & ~union((other for _, other in patches), SIZE)
        shares = [float((other & mask).sum() / min(other.sum(), mask.sum())) for _, other in patches]
        most = max(shares, default=0.0)
        if most >= 0.5:
            host = shares.index(most)
            patches[host] = (patches[host][0], patches[host][1] | free)
        elif free.any():
            patches.append((one, free))
    return [(one.name, mask.tobytes()) for one, mask in patches[: config.max_regions]]


@given(st.lists(regions(), min_size=1, max_size=12), st.sampled_from([0.0, 0.03, 0.06]), st.integers(1, 12))
def test_plans_are_what_they_are_defined_as(found: list[Region], grown: float, most: int) -> None:
    config = RefineConfig(dilate=grown, max_regions=most)
    planned = [(patch.region.name, patch.mask.tobytes()) for patch in plan_patches(found, SIZE, config)]
    assert planned == slowly_planned(found, config)


@given(st.lists(regions(), min_size=1, max_size=12), st.sampled_from(["worst", "largest", "left_to_right", "centre"]))
def test_patches_never_share_a_pixel_and_cover_all(found: list[Region], order: str) -> None:
    patches = plan_patches(found, SIZE, replace(PLAIN, order=order, merge_overlap=1.0))
    for first, second in itertools.combinations(patches, 2):
        assert not (first.mask & second.mask).any()
    assert np.array_equal(
        union((patch.mask for patch in patches), SIZE), union((one.pixels(SIZE) for one in found), SIZE)
    )


def test_hundreds_of_regions_are_planned_by_their_windows() -> None:
    size = Size(1024, 1024)
    dots = [region(x, y, x + 3, y + 3) for x in range(8, 1000, 64) for y in range(8, 1000, 64)]
    assert len(plan_patches(dots, size, RefineConfig(dilate=0.005, max_regions=1000))) == len(dots) == 256


ORDERED = [region(50, 2, 58, 10, 0.5), region(4, 40, 34, 58, 0.2), region(36, 26, 42, 32, 0.9)]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("worst", ["36,26", "50,2", "4,40"]),
        ("largest", ["4,40", "50,2", "36,26"]),
        ("left_to_right", ["4,40", "36,26", "50,2"]),
        ("centre", ["36,26", "50,2", "4,40"]),
    ],
)
def test_the_order_says_which_come_first_where_there_are_too_many(order: str, wanted: list[str]) -> None:
    for most in (1, 2, 3):
        config = replace(PLAIN, order=order, max_regions=most)
        assert names(plan_patches(ORDERED, SIZE, config)) == wanted[:most]


def test_regions_outside_the_area_limits_are_left_alone() -> None:
    areas = [one.pixels(SIZE).mean() for one in ORDERED]
    assert repaintable(ORDERED, SIZE, RefineConfig()) == ORDERED
    assert repaintable(ORDERED, SIZE, RefineConfig(min_area=0.01)) == ORDERED[:2]
    assert repaintable(ORDERED, SIZE, RefineConfig(max_area=0.05)) == [ORDERED[0], ORDERED[2]]
    assert repaintable(ORDERED, SIZE, RefineConfig(min_area=areas[0], max_area=areas[0])) == [ORDERED[0]]


def test_holes_are_filled_where_that_is_wanted() -> None:
    ring = np.zeros(tuple(SIZE), dtype=np.bool_)
    ring[10:40, 10:40] = True
    ring[20:30, 20:30] = False
    hollow = region(10, 10, 40, 40, mask=ring)
    (whole,) = plan_patches([hollow], SIZE, replace(PLAIN, fill_holes=True))
    (as_it_was,) = plan_patches([hollow], SIZE, PLAIN)
    assert np.array_equal(as_it_was.mask, ring)
    assert whole.mask.sum() == 30 * 30
    assert whole.mask[20:30, 20:30].all()


@pytest.mark.parametrize(("overlap", "count"), [(0.0, 2), (0.3, 2), (0.31, 3), (1.0, 3)])
def test_regions_that_share_enough_are_painted_as_one(overlap: float, count: int) -> None:
    found = [region(0, 0, 10, 10), region(7, 0, 17, 10), region(40, 40, 50, 50)]
    patches = plan_patches(found, SIZE, replace(PLAIN, merge_overlap=overlap))
    assert len(patches) == count
    inside = [region(0, 0, 20, 20), region(5, 5, 10, 10)]
    assert len(plan_patches(inside, SIZE, replace(PLAIN, merge_overlap=overlap))) == 1


def patch(severity: float, share: float) -> Patch:
    mask = np.zeros((10, 10), dtype=np.bool_)
    mask.flat[: round(100 * share)] = True
    return Patch(mask=mask, region=region(0, 0, 1, 1, severity))


def test_strength_is_the_configs_unless_it_is_to_depend_on_the_patch() -> None:
    config = RefineConfig(strengths=(0.37, 0.9))
    for severity, share in itertools.product((0.0, 0.5, 1.0), (0.01, 0.5, 1.0)):
        assert [strength_of(patch(severity, share), config, tries) for tries in (0, 1, 2)] == [0.37, 0.9, 0.9]


def test_strength_falls_with_less_severity_and_more_area() -> None:
    config = RefineConfig(strengths=(0.8,), severity_strength=0.5)
    assert [strength_of(patch(severity, 0.1), config, 0) for severity in (1.0, 0.5, 0.0)] == [0.8, 0.6, 0.4]
    config = RefineConfig(strengths=(0.8,), area_strength=2)
    assert [strength_of(patch(1.0, share), config, 0) for share in (0.01, 0.5, 1.0)] == [0.8, 0.2, 0.05]


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 4), st.floats(0, 1), st.floats(0.01, 1))
def test_strengths_stay_in_range_and_in_steps(
    strength: float, by_severity: float, by_area: float, severity: float, share: float
) -> None:
    config = RefineConfig(strengths=(strength,), severity_strength=by_severity, area_strength=by_area)
    found = strength_of(patch(severity, share), config, 0)
    assert 0 < found <= 1
    if by_severity or by_area:
        assert round(found / 0.05) * 0.05 == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "size"}, {"min_area": -0.1}, {"max_area": 1.1}, {"min_area": 0.5, "max_area": 0.4},
        {"merge_overlap": 1.1}, {"merge_overlap": -0.1}, {"severity_strength": 2}, {"area_strength": -1},
        {"min_area": float("nan")},
    ],
)  # fmt: skip
def test_settings_out_of_their_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"RefineConfig\.\w+ must be"):
        RefineConfig(**settings)


class Painter:
    """Generates grey images, and inpaints every mask in green."""

    def __init__(self) -> None:
        self.jobs: list[InpaintJob] = []

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        return [Image.new("RGB", (SIZE.width, SIZE.height), (128, 128, 128)) for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        return [Image.fromarray(np.where(job.mask[..., None], (0, 200, 0), job.image).astype(np.uint8)) for job in jobs]

    def spent(self) -> Calls:
        return Calls()


def repainted(**settings: object) -> tuple[RefinementResult, list[InpaintJob]]:
    painter = Painter()
    factors = itertools.chain([1.0], itertools.repeat(0.2))

    def look(_image: Image.Image) -> Analysis:
        factor = next(factors)
        found = tuple(replace(one, severity=one.severity * factor) for one in ORDERED)
        return Analysis(size=SIZE, regions=found, detector="d")

    detector = ScriptedDetector(look)
    parts = Parts(generator=painter, inpainter=painter, detector=detector, reviser=TemplateReviser())
    config = RefineConfig(max_rounds=1, strategy="inpaint", dilate=0.0, **settings)
    return refine(parts, "a hand", config).result, painter.jobs


def test_the_loop_heeds_them() -> None:
    result, jobs = repainted(order="left_to_right", max_regions=2, severity_strength=1.0, strengths=(0.8,))
    assert result.best == 1
    assert [float(np.flatnonzero(job.mask.any(axis=0))[0]) for job in jobs] == [4, 36]
    assert [job.strength for job in jobs] == [0.15, 0.7]
    _, jobs = repainted(min_area=0.01, max_area=0.05)
    assert len(jobs) == 1
    result, jobs = repainted(min_area=0.9)
    assert (jobs, result.best, len(result.attempts)) == ([], 0, 1)
