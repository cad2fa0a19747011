"""Injected flaws: their masks are where the image changed, their texts are complete, they cover the taxonomy."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import ConfigError
from refiner.masks import box_of
from refiner.micro.flaws import FLAWS, VISIBLE, FlawedPicture, inject
from refiner.micro.things import KINDS
from refiner.micro.world import SIZE, Scene, Thing, place, render, sample_scene
from refiner.taxonomy import PERCEPTUAL, LegionKind, XaigdCategory
from refiner.types import Size


def lone(kind: str, rng: np.random.Generator) -> Scene:
    attributes = KINDS[kind].attributes
    thing = Thing(kind=kind, colour="green", attribute=attributes[int(rng.integers(len(attributes)))])
    return place(Scene(things=(thing,), rows=(1,), background="rose"), rng)


def example(name: str, seed: int) -> FlawedPicture:
    rng = np.random.default_rng(seed)
    while True:
        kind = FLAWS[name].things[int(rng.integers(len(FLAWS[name].things)))]
        flawed = inject(lone(kind, rng), rng, 1, [name])
        if flawed.regions:
            return flawed


def changed(flawed: FlawedPicture) -> np.ndarray:
    before = np.asarray(render(flawed.scene)).astype(int)
    return np.abs(before - np.asarray(flawed.image)).max(axis=2) > VISIBLE


@pytest.mark.parametrize("name", FLAWS)
def test_the_mask_is_where_the_picture_changed(name: str) -> None:
    for seed in range(3):
        flawed = example(name, seed)
        mask = flawed.regions[0].pixels(Size(SIZE, SIZE))
        assert not (changed(flawed) & ~mask).any()
        assert (changed(flawed) & mask).sum() >= 0.3 * mask.sum()
        assert mask.sum() >= 8


@pytest.mark.parametrize("name", FLAWS)
def test_the_words_and_figures_are_whole(name: str) -> None:
    flawed = example(name, 0)
    (region,) = flawed.regions
    assert flawed.kinds == (name,)
    assert region.mask is not None
    assert region.box == box_of(region.mask)
    assert region.category is FLAWS[name].category
    assert 0 < region.severity <= 1
    for text in (region.name, region.location, region.explanation, region.reasoning):
        assert text
        assert not set("{}") & set(text)


def test_the_kinds_cover_both_taxonomies() -> None:
    categories = {kind.category for kind in FLAWS.values()}
    assert categories == set(PERCEPTUAL)
    assert {category.xaigd for category in categories} == set(XaigdCategory)
    assert {category.legion for category in categories} == set(LegionKind)
    assert {thing for kind in FLAWS.values() for thing in kind.things} == set(KINDS)
    assert len(FLAWS) >= 16


def test_each_kind_changes_parts_or_pixels() -> None:
    assert all((kind.edit is None) != (kind.touch is None) for kind in FLAWS.values())


def test_a_seed_decides_the_flaws() -> None:
    def draw(seed: int) -> FlawedPicture:
        rng = np.random.default_rng(seed)
        return inject(sample_scene(rng, 4), rng, 4)

    first, again, other = draw(1), draw(1), draw(2)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.kinds == again.kinds
    assert [region.explanation for region in first.regions] == [region.explanation for region in again.regions]
    assert first.image.tobytes() != other.image.tobytes()


def test_no_flaw_leaves_the_picture_as_it_was() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng)
    flawed = inject(scene, rng, 0)
    assert flawed.image.tobytes() == render(scene).tobytes()
    assert flawed.regions == ()


def test_every_thing_has_at_most_one_flaw_and_their_masks_hold_all_changes() -> None:
    rng = np.random.default_rng(9)
    for _ in range(10):
        scene = sample_scene(rng, 4)
        flawed = inject(scene, rng, 4)
        assert len(flawed.regions) == len(flawed.kinds) <= 4
        masks = [region.pixels(Size(SIZE, SIZE)) for region in flawed.regions]
        stray = changed(flawed) & ~np.logical_or.reduce(masks)
        assert stray.sum() <= 8 * (4 - len(masks))
        owners = {region.name.rpartition(" of the ")[2] for region in flawed.regions}
        assert owners <= {f"{thing.colour} {thing.kind}" for thing in scene.things}
        assert len(owners) == len(flawed.regions)


def test_only_kinds_that_were_asked_for() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        flawed = inject(sample_scene(rng, 3), rng, 3, ["bite", "wrong_colour"])
        assert set(flawed.kinds) <= {"bite", "wrong_colour"}


@pytest.mark.parametrize("count", [-1, 2])
def test_more_flaws_than_things_are_refused(count: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"Expected 0 to 1 flaws"):
        inject(sample_scene(rng, 1), rng, count)


def test_unknown_kinds_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="seventh_finger"):
        inject(sample_scene(rng, 1), rng, 1, ["seventh_finger"])
