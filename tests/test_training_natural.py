"""Flaws as the generator makes them: exact truth by comparison with the render, and the words for it."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import FlawedPicture, inject
from refiner.micro.world import SIZE, Scene, Thing, render, sample_scene
from refiner.taxonomy import Category
from refiner.training.legion_data import KIND_NAMES, build_tokenizer, draw_natural, vocabulary_texts
from refiner.training.natural import Imperfect, category_of, malformed, regions_of
from refiner.training.preference_data import round_trip
from refiner.types import Size


def scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_a_render_of_the_scene_is_not_malformed() -> None:
    for scene in scenes(20, 1):
        wrong = malformed(np.asarray(render(scene)), scene)
        assert not wrong.any()
        assert regions_of(wrong, scene) == []


def test_a_thing_may_stand_two_pixels_beside_its_place() -> None:
    thing = Thing(kind="clock", colour="blue", attribute="four", x=48, y=48, radius=30)
    scene = Scene(things=(thing,), rows=(1,), background="sand")
    moved = np.roll(np.asarray(render(scene)), (2, -1), axis=(0, 1))
    assert not malformed(moved, scene).any()


def test_decoded_renders_are_hardly_malformed() -> None:
    drawn = scenes(20, 2)
    pictures = round_trip(MICRO_WEIGHTS / "generator" / "vae")(np.stack([np.asarray(render(scene)) for scene in drawn]))
    shares = [malformed(picture, scene).mean() for picture, scene in zip(pictures, drawn, strict=True)]
    assert np.mean(shares) < 0.002


@pytest.mark.parametrize("kind", ["missing_finger", "missing_mouth", "missing_leg", "garbled_letter", "missing_window"])
def test_a_wrong_part_is_found_and_named(kind: str) -> None:
    rng = np.random.default_rng(3)
    named = 0
    for _ in range(10):
        picture = _flawed(kind, rng)
        truth = picture.regions[0]
        found = regions_of(malformed(np.asarray(picture.image), picture.scene), picture.scene)
        assert found
        hit = max(found, key=lambda region: int((region.pixels(Size(SIZE, SIZE)) & truth.mask).sum()))
        assert (hit.mask & truth.mask).sum() > 0.3 * hit.mask.sum()
        named += hit.name == truth.name
    assert named >= 6


def _flawed(kind: str, rng: np.random.Generator) -> FlawedPicture:
    while not (picture := inject(sample_scene(rng), rng, 1, [kind])).regions:
        pass
    return picture


def test_repainting_more_gets_more_wrong_and_does_not_depend_on_the_batch() -> None:
    imperfect, drawn = Imperfect(MICRO_WEIGHTS / "generator"), scenes(8, 4)
    light, heavy = (imperfect.paint(drawn, strength, 5) for strength in (0.1, 0.7))
    areas = [np.mean([malformed(p, s).mean() for p, s in zip(each, drawn, strict=True)]) for each in (light, heavy)]
    assert areas[0] < areas[1]
    again = imperfect.paint(drawn[:3], 0.7, 5)
    assert np.abs(again.astype(int) - heavy[:3]).max() <= 24  # bfloat16 rounds by the batch


def test_natural_flaws_are_said_in_known_words() -> None:
    tokenizer = build_tokenizer(vocabulary_texts())
    items = draw_natural(Imperfect(MICRO_WEIGHTS / "generator"), np.random.default_rng(6), 12)
    assert len(items) == 12
    assert any(item.kinds for item in items)
    for item in items:
        assert set(item.kinds) <= {KIND_NAMES.index("malformed")}
        assert item.masks.any(axis=(1, 2)).all()
        for finding in item.findings:
            words = f"{finding.name}, {finding.location}: {finding.explanation}, because {finding.reasoning}"
            assert tokenizer.unk_token_id not in tokenizer.encode(words, add_special_tokens=False)


def test_categories_of_parts() -> None:
    assert category_of("second letter") == Category.TEXT
    assert category_of("reflection of the roof") == Category.OPTICS
    assert category_of("palm") == Category.SHAPE
    assert category_of("left pupil") == Category.ANATOMY
