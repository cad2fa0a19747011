"""A region from a claim and its mask: the place comes from the mask, else from the claim, else there is none."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.claims import region_of
from refiner.taxonomy import Category
from refiner.types import Claim, Mask, Size

SIZE = Size(40, 60)
TOLD = Claim(
    name="the left hand",
    location="by the door",
    explanation="six fingers",
    reasoning="a hand has five",
    category=Category.ANATOMY,
    severity=0.9,
    score=0.4,
    box=(40, 20, 60, 40),
)


def test_everything_that_is_told_is_kept() -> None:
    region = region_of(TOLD, None, SIZE)
    for field in ("name", "location", "explanation", "reasoning", "category", "severity", "score", "box"):
        assert getattr(region, field) == getattr(TOLD, field)
    assert region.mask is None


def test_the_box_is_that_of_the_mask_where_there_is_one() -> None:
    mask = np.zeros(tuple(SIZE), dtype=np.bool_)
    mask[2:5, 3:9] = True
    assert region_of(TOLD, mask, SIZE).box == (3, 2, 9, 5)
    region = region_of(Claim(name="a spot"), mask, SIZE)
    assert (region.box, region.location) == ((3, 2, 9, 5), "upper left")


def test_an_empty_mask_leaves_the_claims_own_box() -> None:
    nothing = np.zeros(tuple(SIZE), dtype=np.bool_)
    assert region_of(TOLD, nothing, SIZE).box == TOLD.box


@pytest.mark.parametrize("mask", [None, np.zeros(tuple(SIZE), dtype=np.bool_)])
def test_without_a_place_it_is_unplaced_and_no_location_is_made_up(mask: Mask | None) -> None:
    region = region_of(Claim(name="the light"), mask, SIZE)
    assert (region.placed, region.mask, region.box, region.location) == (False, None, None, "")
    assert not region.pixels(SIZE).any()
    assert region_of(Claim(name="the light", box=(40, 20, 60, 40)), None, SIZE).location == "lower right"


def test_what_is_not_told_gets_the_defaults_of_the_readers() -> None:
    region = region_of(Claim(name="the light"), None, SIZE)
    assert (region.category, region.severity, region.score) == (Category.SHAPE, 0.6, 1.0)
    nothing = region_of(Claim(name="the light", severity=0.0, score=0.0), None, SIZE)
    assert (nothing.severity, nothing.score) == (0.0, 0.0)
