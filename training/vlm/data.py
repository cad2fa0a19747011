"""Training data of the vision-language model: images of the micro world with their captions.

The images have injected flaws, the generator's own flaws, or no flaws. Some captions are then changed so that they ask
for another colour, kind or attribute than the image shows. Only a model that reads the caption can find such a flaw. A
thing is one object of the micro world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from refiner.masks import box_of, location_words
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import Scene, Thing, parse_caption
from refiner.taxonomy import Category
from refiner.training.world import marked
from refiner.training.world.flaws import Pixels
from refiner.training.world.labels import PART_NAMES
from refiner.training.world.marked import UNSEEN, Marked, Shards, arranged
from refiner.training.world.paintings import Painting
from refiner.training.world.scenes import other
from refiner.training.world.words import FRAME, INSTEAD, WANTED
from refiner.types import Claim, Mask

CLEAN_SHARE = 0.3
"""Share of clean images in shards of injected flaws. Of the images from the generator, at least a quarter are clean."""
MOST_REGIONS = 6  # largest number of regions in an answer; the largest regions are kept
SURE, LESS_SURE = 0.9, 0.7  # confidence in an injected flaw or a wrong thing, and in a malformed part
_ATTRIBUTES: dict[str, tuple[str, Category, tuple[str, ...]]] = {
    "face": ("{}", Category.ANATOMY, ("mouth",)),
    "clock": ("{} o'clock", Category.COMMONSENSE, ("hour hand",)),
    "sign": ("{}", Category.TEXT, ("first letter", "second letter", "third letter")),
    "cat": ("facing {}", Category.COMMONSENSE, ()),
    "tree": ("with the sun on the {}", Category.OPTICS, ("sun",)),
}
"""By kind: how an explanation words its attribute, the flaw's category, and the parts that show it (empty: all)."""
HUES = (*COLOURS, *BACKGROUNDS)  # colours of things, then backgrounds


def draw(rng: np.random.Generator, clean_share: float = CLEAN_SHARE) -> Marked:
    """A random image. It is clean with probability ``clean_share``, else it has injected flaws."""
    return marked.draw(rng, clean_share, SURE)


def natural(painting: Painting) -> list[Marked]:
    """The images of a ``Painting`` (generated images of one scene) with their true regions."""
    return marked.natural(painting, LESS_SURE, MOST_REGIONS)


class Album(Shards):
    """Shards of images. With a gallery, every second one holds injected flaws."""

    seed, every, injected, captions = 5_000_000, 2, "injected", True

    def draw(self, rng: np.random.Generator) -> Marked:
        return draw(rng)

    def natural(self, painting: Painting) -> list[Marked]:
        return natural(painting)


def unlike(item: Marked, rng: np.random.Generator) -> Marked:
    """The same image with a caption that asks for something else at one of its things, and with that flaw.

    If the thing that is drawn at random already has a flaw, or no pixel shows it, the item is returned unchanged.
    """
    scene = parse_caption(item.caption)
    flawed = item.masks.any(axis=0)
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    if (mask_of(item.parts, thing.kind) & flawed).any():
        return item
    wanted, seen, words, category, parts = _asked(thing, scene, rng)
    mask = mask_of(item.parts, thing.kind, parts)
    box = box_of(mask)
    if box is None:
        return item
    name = f"the {thing.colour} {thing.kind}"
    named = "the letters" if len(parts) > 1 else f"the {parts[0]}" if parts else ""
    region = Claim(
        name=f"{named} of {name}" if named else name,
        location=location_words(box, FRAME),
        explanation=INSTEAD.format(seen=seen, wanted=words),
        reasoning=WANTED.format(phrase=wanted.phrase),
        category=category,
        severity=0.9,
        score=SURE,
        box=box,
    )
    things = tuple(wanted if place == index else each for place, each in enumerate(scene.things))
    changed = item._replace(
        caption=dataclasses.replace(scene, things=things).caption,
        found=(*item.found, region),
        masks=np.concatenate([item.masks, mask[None]]),
        kinds=(*item.kinds, UNSEEN),
    )
    return arranged(changed, {row: claim.box for row, claim in enumerate(changed.found) if claim.box})


def _asked(thing: Thing, scene: Scene, rng: np.random.Generator) -> tuple[Thing, str, str, Category, tuple[str, ...]]:
    """Another thing than the one shown, both in words, the category of the difference, and the parts that show it
    (empty: all)."""
    choice = rng.random()
    if choice < 0.4 and thing.kind in _ATTRIBUTES:
        template, category, parts = _ATTRIBUTES[thing.kind]
        wanted = dataclasses.replace(thing, attribute=other(rng, KINDS[thing.kind].attributes, thing.attribute))
        return wanted, template.format(thing.attribute), template.format(wanted.attribute), category, parts
    if choice < 0.75:
        wanted = dataclasses.replace(thing, colour=other(rng, COLOURS, thing.colour))
        return wanted, thing.colour, wanted.colour, Category.COLOR, ()
    kind = other(rng, KINDS, *(each.kind for each in scene.things))
    attributes = KINDS[kind].attributes
    wanted = Thing(kind=kind, colour=thing.colour, attribute=attributes[int(rng.integers(len(attributes)))])
    return wanted, f"a {thing.kind}", f"a {kind}", Category.COMMONSENSE, ()


def mask_of(parts: Pixels, kind: str, names: Sequence[str] = ()) -> Mask:
    """The pixels where a thing, or some of its parts, should be, bool (96, 96). ``names`` empty: all parts."""
    labels = [
        1 + label
        for label, name in enumerate(PART_NAMES)
        if name.startswith(f"{kind}: ") and (not names or name.partition(": ")[2] in names)
    ]
    mask: Mask = np.isin(parts, labels).repeat(2, axis=0).repeat(2, axis=1)
    return mask


def kind_of(label: int) -> str:
    """The kind of thing that a label of the part map belongs to."""
    return PART_NAMES[label - 1].partition(": ")[0]


def hues_of(item: Marked) -> Pixels:
    """The colour or background that every second pixel should show: uint8 (48, 48), 1 + index into ``HUES``.

    All values are 0 if the caption asks for something else than the image shows.
    """
    if UNSEEN in item.kinds:
        return np.zeros_like(item.parts)
    scene = parse_caption(item.caption)
    colours = {thing.kind: 1 + HUES.index(thing.colour) for thing in scene.things}
    ground = 1 + HUES.index(scene.background)
    table = [ground, *(colours.get(kind_of(label), 0) for label in range(1, 1 + len(PART_NAMES)))]
    return np.array(table, np.uint8)[item.parts]
