"""The referee finds each flaw, names it, counts it once, and reports none in clean and slightly softened images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.referee import referee_accuracy

from refiner.errors import InputError
from refiner.micro.drawing import rasterise
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.oracle import Verdict, inspect
from refiner.micro.world import SIZE, Scene, Thing, cells, place, render, sample_scene
from refiner.taxonomy import Category

STRICT = {Category.ANATOMY, Category.SHAPE, Category.TEXT, Category.COLOR, Category.TEXTURE}


def pair() -> Scene:
    """A face left of a clock."""
    things = (
        Thing(kind="face", colour="red", attribute="smiling", x=24.3, y=48.6, radius=20.2),
        Thing(kind="clock", colour="green", attribute="four", x=71.8, y=45.1, radius=19.1),
    )
    return Scene(things=things, rows=(2,), background="sky")


def without(scene: Scene, index: int, *names: str) -> Image.Image:
    """The image of the scene without some parts of one thing."""
    shapes = [shape for shape in scene.shapes() if shape.thing != index or shape.part not in names]
    return rasterise(shapes, scene.ground, SIZE)


def replaced(scene: Scene, index: int, **changes: str) -> Image.Image:
    things = list(scene.things)
    things[index] = replace(things[index], **changes)
    return render(replace(scene, things=tuple(things)))


def names(verdict: Verdict) -> list[tuple[int, str]]:
    return [(flaw.thing, flaw.part) for flaw in verdict.flaws]


def test_calibration_holds_on_unseen_pictures() -> None:
    figures = referee_accuracy(pictures=2, seed=71)
    assert figures["clean"]["flaws"] < 0.05
    assert figures["clean"]["area"] < 0.005
    assert figures["softened"]["flaws"] <= 0.1
    assert figures["found"] >= 0.9
    strict = [each["iou"] for name, each in figures["kinds"].items() if FLAWS[name].category in STRICT]
    assert np.mean(strict) >= 0.6


def test_clean_pictures_fit_where_they_were_drawn() -> None:
    rng = np.random.default_rng(72)
    for _ in range(12):
        scene = sample_scene(rng)
        verdict = inspect(render(scene), scene.caption)
        assert verdict.count == 0
        for seen, thing in zip(verdict.things, scene.things, strict=True):
            assert seen.kind_ok
            assert seen.colour_ok
            assert (seen.x, seen.y, seen.radius) == pytest.approx((thing.x, thing.y, thing.radius), abs=0.25)


@pytest.mark.parametrize("blur", [0.5, 0.7])
def test_softness_of_the_whole_picture_is_no_flaw(blur: float) -> None:
    rng = np.random.default_rng(73)
    counts = []
    for _ in range(8):
        scene = sample_scene(rng)
        counts.append(inspect(render(scene).filter(ImageFilter.GaussianBlur(blur)), scene).count)
    assert sum(counts) == 0


@pytest.mark.parametrize("radius", [20.0, 30.0, 39.0])
@pytest.mark.parametrize(("longer", "flaws"), [(0.2, 0), (0.3, 1)])
def test_what_a_part_may_be_off_by_is_in_proportion_to_its_thing(radius: float, longer: float, flaws: int) -> None:
    hand = Thing(kind="hand", colour="red", x=SIZE / 2, y=SIZE / 2 + 4, radius=radius)
    scene = Scene(things=(hand,), rows=(1,), background="sky")
    stretched = []
    for shape in scene.shapes():
        if shape.part == "second finger":
            tip = shape.points[:, 1] < hand.y - 0.5 * radius
            shape = replace(shape, points=shape.points - np.outer(tip, (0, longer * radius)))
        stretched.append(shape)
    assert inspect(rasterise(stretched, scene.ground, SIZE), scene).count == flaws


@pytest.mark.parametrize("part", ["left pupil", "right pupil", "nose", "mouth"])
def test_a_lost_part_of_a_face_is_one_flaw_with_its_name(part: str) -> None:
    verdict = inspect(without(pair(), 0, part), pair())
    assert names(verdict) == [(0, part)]
    assert verdict.things[0].kind_ok


def test_an_eye_lost_with_its_pupil_is_one_flaw() -> None:
    assert names(inspect(without(pair(), 0, "left eye", "left pupil"), pair())) == [(0, "left eye")]


@pytest.mark.parametrize("part", ["three o'clock tick", "six o'clock tick", "hour hand"])
def test_a_lost_part_of_a_clock_is_one_flaw_with_its_name(part: str) -> None:
    assert names(inspect(without(pair(), 1, part), pair())) == [(1, part)]


def test_two_lost_parts_are_two_flaws() -> None:
    verdict = inspect(without(pair(), 0, "left pupil", "mouth"), pair())
    assert sorted(names(verdict)) == [(0, "left pupil"), (0, "mouth")]


def test_a_pupil_that_is_blurred_away_is_reported() -> None:
    picture = render(pair())
    face = pair().things[0]
    x, y = face.x - 0.36 * face.radius, face.y - 0.2 * face.radius
    box = tuple(round(value) for value in (x - 4, y - 5, x + 4, y + 5))
    picture.paste(picture.filter(ImageFilter.GaussianBlur(4)).crop(box), box)
    assert any(part in ("left pupil", "left eye", "blob") for _, part in names(inspect(picture, pair())))


def test_a_stray_blot_is_one_blob_in_the_cell_where_it_lies() -> None:
    picture = render(pair())
    picture.paste((142, 78, 176), (60, 6, 68, 12))
    verdict = inspect(picture, pair())
    assert names(verdict) == [(1, "blob")]
    assert verdict.mask[7:11, 61:67].all()
    assert verdict.area == pytest.approx(48 / SIZE**2, rel=0.3)


def test_another_kind_is_one_flaw_over_the_cell() -> None:
    verdict = inspect(replaced(pair(), 0, kind="house", attribute=""), pair())
    assert names(verdict) == [(0, "thing")]
    assert not verdict.things[0].kind_ok
    x0, y0, x1, y1 = (round(value) for value in cells(pair().rows)[0])
    assert verdict.mask[y0:y1, x0:x1].all()
    assert verdict.mask.sum() == (y1 - y0) * (x1 - x0)


def test_another_colour_is_one_flaw_over_the_cell() -> None:
    verdict = inspect(replaced(pair(), 1, colour="purple"), pair())
    assert names(verdict) == [(1, "thing")]
    assert verdict.things[1].kind_ok
    assert not verdict.things[1].colour_ok


def test_kinds_and_colours_are_told_apart() -> None:
    rng = np.random.default_rng(74)
    for _ in range(6):
        shown, wanted = (sample_scene(rng, 1) for _ in range(2))
        shown = replace(shown, background=wanted.background)
        (seen,) = inspect(render(shown), wanted).things
        assert seen.kind_ok == (shown.things[0].kind == wanted.things[0].kind)
        assert not seen.kind_ok or seen.colour_ok == (shown.things[0].colour == wanted.things[0].colour)


@pytest.mark.parametrize("kind", ["cat", "tree"])
def test_the_other_side_is_one_flaw(kind: str) -> None:
    wanted = Scene(things=(Thing(kind=kind, colour="blue", attribute="left", radius=30),), rows=(1,), background="sand")
    verdict = inspect(replaced(wanted, 0, attribute="right"), wanted)
    assert names(verdict) == [(0, "thing")]
    assert verdict.things[0].kind_ok
    assert verdict.things[0].colour_ok
    assert verdict.things[0].turned


def test_an_empty_picture_lacks_every_thing() -> None:
    scene = sample_scene(np.random.default_rng(1), 4)
    verdict = inspect(Image.new("RGB", (SIZE, SIZE), scene.ground), scene)
    assert names(verdict) == [(index, "thing") for index in range(4)]
    assert verdict.area == 1


def test_another_hour_is_a_flaw_of_the_clock_alone() -> None:
    verdict = inspect(replaced(pair(), 1, attribute="nine"), pair())
    assert {flaw.thing for flaw in verdict.flaws} == {1}
    assert "hour hand" in {flaw.part for flaw in verdict.flaws}


def test_places_of_a_given_scene_are_ignored_and_the_answer_is_always_the_same() -> None:
    rng = np.random.default_rng(75)
    flawed = inject(sample_scene(rng, 3), rng, 3)
    asked = [flawed.scene, flawed.scene.caption, place(flawed.scene, rng)]
    verdicts = [inspect(flawed.image, each) for each in asked]
    assert all((verdict.mask == verdicts[0].mask).all() for verdict in verdicts)
    assert all(names(verdict) == names(verdicts[0]) for verdict in verdicts)


def test_masks_are_whole_and_within_the_union() -> None:
    rng = np.random.default_rng(76)
    for _ in range(4):
        flawed = inject(sample_scene(rng, 4), rng, 4)
        verdict = inspect(flawed.image, flawed.scene)
        assert verdict.count == len(verdict.flaws)
        assert verdict.area == verdict.mask.mean()
        for flaw in verdict.flaws:
            assert flaw.mask.shape == (SIZE, SIZE)
            assert flaw.mask.any()
            assert flaw.reason


def test_other_sizes_and_captions_are_refused() -> None:
    with pytest.raises(InputError, match="96x96"):
        inspect(Image.new("RGB", (64, 96)), pair())
    with pytest.raises(InputError, match=r"^Expected"):
        inspect(render(pair()), "a photograph of a dog")


def test_what_the_bundled_autoencoder_decodes_counts_as_clean() -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL

    from refiner.hub import resolve
    from refiner.micro.domain import check

    model = AutoencoderKL.from_pretrained(resolve("micro:generator", "generator"), subfolder="vae").eval()
    rng = np.random.default_rng(77)
    scenes = [sample_scene(rng) for _ in range(10)]
    pixels = np.stack([np.asarray(render(scene)) for scene in scenes])
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        decoded = model.decode(model.encode(given).latent_dist.mean).sample.clamp(-1, 1)
    images = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for image in images:
        check(Image.fromarray(image))
    counts = [inspect(Image.fromarray(image), scene).count for image, scene in zip(images, scenes, strict=True)]
    assert np.mean(counts) <= 0.2
