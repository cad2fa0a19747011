"""Training data of the micro judge: captions of the micro world, images of them, and the truth about each patch.

The judge is a model that scores an image against its prompt. A thing is one object of the micro world. A rendered
sample is one caption with five images: two clean renders with different places and sizes, one with flaws, one with one
more flaw, and one of a rival caption that differs in one detail. A natural sample has the generated images of a
``Painting`` (``world/paintings.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.micro.flaws import FLAWS, FlawedPicture, inject
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE, Scene, Thing, place, render, sample_scene
from refiner.training.world.flaws import Pixels
from refiner.training.world.labels import PART_NAMES, part_map
from refiner.training.world.paintings import Painting
from refiner.training.world.scenes import other
from refiner.types import Mask

PICTURES = ("clean", "again", "flawed", "worse", "rival")  # the images of a rendered sample, in order
TEXT_RIVALS = 5  # wrong captions of a sample, besides the caption of its rival image
CELLS = 12  # dense labels are on a grid of CELLS x CELLS, the patches of the image tower
ATTRIBUTES = [
    (kind.name, attribute) for kind in KINDS.values() if len(kind.attributes) > 1 for attribute in kind.attributes
]

Retouch = Callable[[Pixels], Pixels]  # maps images, uint8 (N, 96, 96, 3), to images of the same shape
Rival = Callable[[Scene, np.random.Generator], Scene | None]


def _with_thing(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _other_colour(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    return _with_thing(scene, index, replace(thing, colour=other(rng, COLOURS, thing.colour)))


def _two(scene: Scene, rng: np.random.Generator) -> tuple[int, int] | None:
    if len(scene.things) < 2:
        return None
    first, second = rng.permutation(len(scene.things))[:2].tolist()
    return first, second


def _swapped_colours(scene: Scene, rng: np.random.Generator) -> Scene | None:
    pair = _two(scene, rng)
    if pair is None or scene.things[pair[0]].colour == scene.things[pair[1]].colour:
        return None
    first, second = (scene.things[index] for index in pair)
    scene = _with_thing(scene, pair[0], replace(first, colour=second.colour))
    return _with_thing(scene, pair[1], replace(second, colour=first.colour))


def _swapped_places(scene: Scene, rng: np.random.Generator) -> Scene | None:
    pair = _two(scene, rng)
    if pair is None:
        return None
    first, second = (scene.things[index] for index in pair)
    at = {"x": first.x, "y": first.y, "radius": first.radius}
    moved = replace(first, x=second.x, y=second.y, radius=second.radius)
    return _with_thing(_with_thing(scene, pair[0], replace(second, **at)), pair[1], moved)  # type: ignore[arg-type]


def _other_attribute(scene: Scene, rng: np.random.Generator) -> Scene | None:
    open_to_change = [i for i, thing in enumerate(scene.things) if len(KINDS[thing.kind].attributes) > 1]
    if not open_to_change:
        return None
    index = open_to_change[int(rng.integers(len(open_to_change)))]
    thing = scene.things[index]
    attribute = other(rng, KINDS[thing.kind].attributes, thing.attribute)
    return _with_thing(scene, index, replace(thing, attribute=attribute))


def _other_kind(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    kind = KINDS[other(rng, KINDS, *(thing.kind for thing in scene.things))]
    attribute = kind.attributes[int(rng.integers(len(kind.attributes)))]
    return _with_thing(scene, index, replace(scene.things[index], kind=kind.name, attribute=attribute))


def _missing_thing(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if len(scene.things) < 2:
        return None
    index = int(rng.integers(len(scene.things)))
    row = 0 if index < scene.rows[0] else 1
    rows = tuple(count - (number == row) for number, count in enumerate(scene.rows))
    things = scene.things[:index] + scene.things[index + 1 :]
    return replace(scene, things=things, rows=tuple(count for count in rows if count))


def _other_background(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, background=other(rng, BACKGROUNDS, scene.background))


RIVALS: dict[str, Rival] = {
    "other_attribute": _other_attribute,
    "other_colour": _other_colour,
    "swapped_colours": _swapped_colours,
    "swapped_places": _swapped_places,
    "other_kind": _other_kind,
    "missing_thing": _missing_thing,
    "other_background": _other_background,
}
"""Changes of a scene, after which it differs from its caption in one detail. None if a change does not apply."""
_TAUGHT = (*RIVALS, "other_attribute", "other_attribute", "swapped_colours", "swapped_places")
"""The changes in training, drawn uniformly. Hard ones are listed several times."""
_OF_ONE_THING = [kind.name for kind in FLAWS.values() if len(kind.things) == 1]
_LEAST_SHARE = 0.06  # smallest flawed share of the pixels in a flawed patch


def rival(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...] = tuple(RIVALS)) -> Scene:
    """The scene with one detail changed. Changes are drawn from ``kinds`` until one applies."""
    while True:
        changed = RIVALS[kinds[int(rng.integers(len(kinds)))]](scene, rng)
        if changed is not None:
            return changed


def flawed_pair(
    scene: Scene, rng: np.random.Generator, kinds: list[str] | None = None
) -> tuple[FlawedPicture, FlawedPicture]:
    """An image with at least one flaw, and one with one more flaw if the scene has another thing for it."""
    things = len(scene.things)
    while True:
        seed, count = int(rng.integers(2**62)), int(rng.integers(1, max(2, things)))
        flawed = inject(scene, np.random.default_rng(seed), count=count, kinds=kinds)
        again = seed if things > 1 else seed + 1
        worse = inject(scene, np.random.default_rng(again), count=min(count + 1, things), kinds=kinds)
        if flawed.kinds and worse.kinds:
            return flawed, worse


def thing_labels(scene: Scene) -> NDArray[np.int8]:
    """What each cell of a scene's image shows, as classes, int8 (3, CELLS, CELLS).

    Kind (the last class: none), colour (those of things, then of backgrounds), and attribute (-1: none).
    """
    labels = np.empty((3, CELLS, CELLS), dtype=np.int8)
    labels[0] = len(KINDS)
    labels[1] = len(COLOURS) + list(BACKGROUNDS).index(scene.background)
    labels[2] = -1
    y, x = (np.indices((CELLS, CELLS)) + 0.5) * (SIZE / CELLS)
    for thing in scene.things:
        inside = (abs(x - thing.x) < thing.radius) & (abs(y - thing.y) < thing.radius)
        labels[0, inside] = list(KINDS).index(thing.kind)
        labels[1, inside] = list(COLOURS).index(thing.colour)
        key = (thing.kind, thing.attribute)
        labels[2, inside] = ATTRIBUTES.index(key) if key in ATTRIBUTES else -1
    return labels


def part_labels(scene: Scene) -> Mask:
    """Which parts of which things each cell of a scene's image should show: bool (CELLS, CELLS, parts)."""
    shown = part_map(scene)
    labels = np.zeros((CELLS, CELLS, 1 + len(PART_NAMES)), dtype=np.bool_)
    y, x = np.indices(shown.shape) * CELLS // shown.shape[0]
    labels[y, x, shown] = True
    return labels[..., 1:]


def cells_of(mask: Mask) -> Mask:
    """The cells, bool (CELLS, CELLS), of which more than ``_LEAST_SHARE`` is in a mask, bool (96, 96)."""
    side = SIZE // CELLS
    share: Mask = mask.reshape(CELLS, side, CELLS, side).mean(axis=(1, 3)) > _LEAST_SHARE
    return share


def flaw_labels(picture: FlawedPicture) -> NDArray[np.uint8]:
    """The kind of flaw in each cell: uint8 (CELLS, CELLS), 1 + index into ``FLAWS``, 0 for none."""
    labels = np.zeros((CELLS, CELLS), dtype=np.uint8)
    for region, kind in zip(picture.regions, picture.kinds, strict=True):
        assert region.mask is not None
        labels[cells_of(region.mask)] = 1 + list(FLAWS).index(kind)
    return labels


class JudgeSample(NamedTuple):
    """N images of one caption, in the order of ``PICTURES`` or ``VIEWS``."""

    pictures: NDArray[np.uint8]  # (N, 96, 96, 3)
    things: NDArray[np.int8]  # (N, 3, CELLS, CELLS), as in ``thing_labels``
    parts: Mask  # (N, CELLS, CELLS, parts), as in ``part_labels``
    flaws: NDArray[np.uint8]
    """(N, CELLS, CELLS), as in ``flaw_labels``. The generator's own flaws have the index after the last kind."""
    better: Mask  # (N, N): whether image i is clearly better than image j for the first caption
    captions: list[str]
    """The caption. A rendered sample also has the caption of the rival image and ``TEXT_RIVALS`` other wrong ones."""


def draw_sample(rng: np.random.Generator) -> JudgeSample:
    """A random rendered sample. Half of the samples have only flaws that just one kind of thing can have."""
    scene = sample_scene(rng)
    again, other = place(scene, rng), rival(scene, rng, _TAUGHT)
    flawed, worse = flawed_pair(scene, rng, _OF_ONE_THING if rng.random() < 0.5 else None)
    pictures = [render(scene), render(again), flawed.image, worse.image, render(other)]
    scenes, clean = (scene, again, scene, scene, other), np.zeros((CELLS, CELLS), dtype=np.uint8)
    faults = np.array([0, 0, len(flawed.kinds), len(worse.kinds), 0])
    better = faults[:, None] < faults
    better[:2, -1] = True
    return JudgeSample(
        pictures=np.stack([np.asarray(picture) for picture in pictures]),
        things=np.stack([thing_labels(each) for each in scenes]),
        parts=np.stack([part_labels(each) for each in scenes]),
        flaws=np.stack([clean, clean, flaw_labels(flawed), flaw_labels(worse), clean]),
        better=better,
        captions=[scene.caption, other.caption, *(rival(scene, rng, _TAUGHT).caption for _ in range(TEXT_RIVALS))],
    )


def natural_sample(painting: Painting) -> JudgeSample:
    """The sample of a ``Painting``. Of two images, the one with fewer flaws on fewer pixels is better."""
    masks = [np.logical_or.reduce([np.zeros((SIZE, SIZE), bool), *(f.mask for f in flaws)]) for flaws in painting.flaws]
    faults = np.array([(len(flaws), mask.sum()) for flaws, mask in zip(painting.flaws, masks, strict=True)])
    return JudgeSample(
        pictures=painting.pictures,
        things=np.stack([thing_labels(scene) for scene in painting.scenes]),
        parts=np.stack([part_labels(scene) for scene in painting.scenes]),
        flaws=np.stack([cells_of(mask) * np.uint8(1 + len(FLAWS)) for mask in masks]),
        better=np.asarray((faults[:, None] < faults).all(axis=2)),
        captions=[painting.scenes[0].caption],
    )
