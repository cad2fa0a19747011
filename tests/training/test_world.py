"""The generator's own flaws: paintings, the referee's annotations, and their regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refiner.hub import MICRO_WEIGHTS
from refiner.masks import dilate, union
from refiner.micro.flaws import FlawedPicture, inject
from refiner.micro.world import SIZE, Scene, place, render, sample_scene
from refiner.pipelines.config import RefineConfig
from refiner.taxonomy import Category
from refiner.training.legion.data import vocabulary_texts
from refiner.training.world.flaws import MOST_REGIONS, Flaw, ImperfectGenerator, annotate, category_of, regions_of
from refiner.training.world.labels import KIND_NAMES
from refiner.training.world.marked import natural
from refiner.training.world.paintings import Gallery
from refiner.training.world.tokenizers import answer_tokenizer
from refiner.types import Size

GENERATOR = MICRO_WEIGHTS / "generator"


def scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_a_render_of_the_scene_has_no_flaw_and_is_found_where_it_is() -> None:
    for scene in scenes(10, 1):
        shown = place(scene, np.random.default_rng(2))
        found, flaws = annotate(np.asarray(render(shown)), scene)
        assert flaws == ()
        assert regions_of(flaws, found) == []
        for thing, truth in zip(found.things, shown.things, strict=True):
            assert np.allclose([thing.x, thing.y, thing.radius], [truth.x, truth.y, truth.radius], atol=1)


@pytest.mark.parametrize("kind", ["missing_finger", "missing_mouth", "missing_leg", "garbled_letter", "missing_window"])
def test_a_wrong_part_is_found_and_named(kind: str) -> None:
    rng = np.random.default_rng(3)
    named = 0
    for _ in range(10):
        picture = _flawed(kind, rng)
        truth = picture.regions[0]
        found = regions_of(annotate(np.asarray(picture.image), picture.scene)[1], picture.scene)
        assert found
        hit = max(found, key=lambda region: int((region.pixels(Size(SIZE, SIZE)) & truth.mask).sum()))
        assert (hit.mask & truth.mask).sum() > 0.3 * hit.mask.sum()
        named += hit.name == truth.name
    assert named >= 6


def _flawed(kind: str, rng: np.random.Generator) -> FlawedPicture:
    while not (picture := inject(sample_scene(rng), rng, 1, [kind])).regions:
        pass
    return picture


def test_flaws_of_one_part_are_one_region_and_regions_stay_countable() -> None:
    scene = scenes(1, 5)[0]
    masks = np.zeros((12, SIZE, SIZE), dtype=bool)
    for number, mask in enumerate(masks):
        mask[8 * number : 8 * number + 2 + number % 5, :4] = True
    one_part = [Flaw(0, "palm", mask) for mask in masks[:3]]
    (region,) = regions_of(one_part, scene)
    assert (region.pixels(Size(SIZE, SIZE)) >= masks[:3].any(axis=0)).all()
    many = regions_of([Flaw(0, f"part {number}", mask) for number, mask in enumerate(masks)], scene)
    assert len(many) == MOST_REGIONS


def test_paint_does_not_depend_on_the_batch() -> None:
    imperfect, drawn = ImperfectGenerator(GENERATOR), scenes(4, 4)
    alone, together = imperfect.paint(drawn[:2], 0.7, 5), imperfect.paint(drawn, 0.7, 5)
    assert np.abs(alone.astype(int) - together[:2]).max() <= 24  # bfloat16 rounds by the batch


def test_paintings_come_back_as_they_were_drawn_and_say_what_is_wrong(tmp_path: Path) -> None:
    imperfect = ImperfectGenerator(GENERATOR)
    drawn, read = (Gallery(tmp_path, imperfect, seed=7, shard=4)[0] for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    tokenizer = answer_tokenizer(vocabulary_texts())
    for first, again in zip(drawn, read, strict=True):
        assert first.scenes == again.scenes
        assert np.array_equal(first.pictures, again.pictures)
        returned, better, poorer, repainted = first.pictures.astype(int)
        assert np.abs(returned - np.asarray(render(first.scenes[0]), dtype=int)).mean() < 8
        changed = (poorer != repainted).any(axis=2)
        assert 0 < changed.mean() < 0.9
        flawed = union((region.mask for region in regions_of(first.flaws[2], first.scenes[2])), Size(SIZE, SIZE))
        mended = (poorer != better).any(axis=2)
        assert mended.any() == flawed.any()
        assert not (mended & ~dilate(flawed, RefineConfig().dilate * SIZE)).any()
        assert first.flaws[0] == ()
        for flaws, known in zip(first.flaws, again.flaws, strict=True):
            assert [flaw[:2] for flaw in flaws] == [flaw[:2] for flaw in known]
            assert all(np.array_equal(flaw.mask, other.mask) for flaw, other in zip(flaws, known, strict=True))
        for item in natural(first):
            assert set(item.kinds) <= {KIND_NAMES.index("malformed")}
            assert item.masks.any(axis=(1, 2)).all()
            for finding in item.found:
                words = f"{finding.name}, {finding.location}: {finding.explanation}, because {finding.reasoning}"
                assert tokenizer.unk_token_id not in tokenizer.encode(words, add_special_tokens=False)


def test_categories_of_parts() -> None:
    assert category_of("second letter") == Category.TEXT
    assert category_of("reflection of the roof") == Category.OPTICS
    assert category_of("palm") == Category.SHAPE
    assert category_of("left pupil") == Category.ANATOMY
