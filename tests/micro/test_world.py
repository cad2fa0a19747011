"""The micro world: captions describe the whole scene, seeds decide everything, things stay in their cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refiner.errors import InputError
from refiner.micro.drawing import OUTLINE_WIDTH, visible
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import (
    LAYOUTS,
    RADII,
    SIZE,
    Scene,
    Thing,
    cells,
    close_up,
    parse_caption,
    parse_phrase,
    render,
    sample_scene,
)
from refiner.reports.contact_sheet import contact_sheet


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def placeless(scene: Scene) -> Scene:
    things = tuple(Thing(kind=t.kind, colour=t.colour, attribute=t.attribute) for t in scene.things)
    return replace(scene, things=things)


def test_captions_round_trip() -> None:
    for scene in scenes(400):
        assert parse_caption(scene.caption) == placeless(scene)
        assert parse_caption(f"  {scene.caption.upper()}\n") == placeless(scene)
        assert parse_caption(scene.caption).caption == scene.caption


def test_every_phrase_round_trips() -> None:
    for kind in KINDS.values():
        for colour in COLOURS:
            for attribute in kind.attributes:
                thing = Thing(kind=kind.name, colour=colour, attribute=attribute)
                assert parse_phrase(thing.phrase) == thing


def test_different_scenes_have_different_captions() -> None:
    drawn = {placeless(scene): scene.caption for scene in scenes(400)}
    assert len(set(drawn.values())) == len(drawn)


NASTY = [
    "",
    " ",
    "\n\t\0",
    "on a sky background",
    " on a sky background",
    "a red hand with five fingers",
    "a red hand with five fingers on a purple background",
    "a red hand with six fingers on a sky background",
    "red hand with five fingers on a sky background",
    "a hand with five fingers on a sky background",
    "a red clock showing twelve o'clock on a sky background",
    "a red clock showing 3 o'clock on a sky background",
    "a red sign saying zzz on a sky background",
    "a red sign saying sun|car on a sky background",
    "a red cat with four legs facing (left|right) on a sky background",
    "a {colour} hand with five fingers on a sky background",
    "a .* hand with five fingers on a sky background",
    "a red hand with five fingers; rm -rf / on a sky background",
    "<script>alert(1)</script> on a sky background",
    "a red hand with five fingers left of on a sky background",
    "a red house by a pond above a red house by a pond above a red house by a pond on a sky background",
    " left of ".join(["a red house by a pond"] * 3) + " on a sky background",
    " above " + "a red house by a pond on a sky background",
    "a red house by a pond on a sky background on a sky background",
    "ａ ｒｅｄ ｈａｎｄ on a sky background",
    "a red hand with five fingers left of " * 20000 + "on a sky background",
    "a " * 200000,
    "%s%n{}{0}\\d+(a+)+$ on a sky background",
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_what_is_no_caption_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError, match=r"^Expected"):
        parse_caption(text)


def test_a_seed_decides_the_picture() -> None:
    first, again, other = (render(scenes(1, seed)[0]).tobytes() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_things_stay_in_their_cells_and_sizes() -> None:
    for scene in scenes(200):
        low, high = RADII[len(scene.things)]
        assert scene.rows in LAYOUTS[len(scene.things)]
        for thing, (x0, y0, x1, y1) in zip(scene.things, cells(scene.rows), strict=True):
            assert low <= thing.radius <= high
            assert x0 <= thing.x - thing.radius
            assert thing.x + thing.radius <= x1
            assert y0 <= thing.y - thing.radius
            assert thing.y + thing.radius <= y1


def test_the_pixels_of_a_thing_stay_within_its_reach() -> None:
    y, x = np.indices((SIZE, SIZE))
    for scene in scenes(40):
        ground = np.array(scene.ground)
        bare = (np.abs(np.asarray(render(scene)).astype(int) - ground) <= 1).all(axis=2)
        for thing in scene.things:
            reach = thing.radius + OUTLINE_WIDTH
            bare |= (abs(x + 0.5 - thing.x) <= reach) & (abs(y + 0.5 - thing.y) <= reach)
        assert bare.all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_shows_at_the_smallest_size(kind: str) -> None:
    smallest = min(low for low, _ in RADII.values())
    thing = Thing(kind=kind, colour="red", attribute=KINDS[kind].attributes[0], radius=smallest)
    shapes = thing.shapes(0, thing.parts(BACKGROUNDS["sky"]))
    pixels: dict[str, int] = {}
    for shape, mask in zip(shapes, visible(shapes, SIZE), strict=True):
        pixels[shape.part] = pixels.get(shape.part, 0) + int(mask.sum())
    assert min(pixels.values()) >= 6, pixels


def test_close_ups_show_one_thing_and_say_so() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(30):
        for index, thing in enumerate(scene.things):
            picture, caption = close_up(scene, index, rng)
            assert picture.size == (SIZE, SIZE)
            (shown,) = parse_caption(caption).things
            assert (shown.kind, shown.colour, shown.attribute) == (thing.kind, thing.colour, thing.attribute)
            assert parse_caption(caption).background == scene.background


def test_a_close_up_is_larger_than_the_thing_was() -> None:
    rng = np.random.default_rng(6)
    for scene in scenes(20, seed=2):
        if len(scene.things) < 2:
            continue
        whole, (near, _) = render(scene), close_up(scene, 0, rng)
        ground = np.array(scene.ground)
        x0, y0, x1, y1 = (round(value) for value in cells(scene.rows)[0])
        before = (np.abs(np.asarray(whole).astype(int) - ground).max(axis=2) > 30)[y0:y1, x0:x1].sum()
        after = (np.abs(np.asarray(near).astype(int) - ground).max(axis=2) > 30).sum()
        assert after > 1.5 * before


def test_the_contact_sheet_is_one_page_for_each_seed() -> None:
    sheet = contact_sheet(1)
    assert sheet.mode == "RGB"
    assert sheet.tobytes() == contact_sheet(1).tobytes()
