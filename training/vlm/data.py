"""Training data of the vision-language model: images of the micro world with their captions.

The images have injected flaws, the generator's own flaws, or no flaws. Some captions are then changed so that they ask
for another colour, kind or attribute than the image shows. Only a model that reads the caption can find such a flaw. A
thing is one object of the micro world.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.files import atomic_write
from refiner.masks import box_of, location_words
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE, Scene, Thing, parse_caption
from refiner.taxonomy import Category
from refiner.training.world.claims import record_of, recorded
from refiner.training.world.flaws import Pixels, regions_of
from refiner.training.world.labels import KIND_NAMES, PART_NAMES, part_map
from refiner.training.world.paintings import Gallery, Painting
from refiner.training.world.scenes import draw_injected
from refiner.training.world.words import FRAME, INSTEAD, WANTED
from refiner.types import Box, Claim, Mask, Region

CLEAN_SHARE = 0.3
"""Share of clean images in shards of injected flaws. Of the images from the generator, at least a quarter are clean."""
MOST_REGIONS = 6
"""Largest number of regions in an answer; the largest regions are kept."""
SURE, LESS_SURE = 0.9, 0.7
"""Confidence in an injected flaw or a wrong thing, and in a malformed part."""
_ATTRIBUTES: dict[str, tuple[str, Category, tuple[str, ...]]] = {
    "face": ("{}", Category.ANATOMY, ("mouth",)),
    "clock": ("{} o'clock", Category.COMMONSENSE, ("hour hand",)),
    "sign": ("{}", Category.TEXT, ("first letter", "second letter", "third letter")),
    "cat": ("facing {}", Category.COMMONSENSE, ()),
    "tree": ("with the sun on the {}", Category.OPTICS, ("sun",)),
}
"""By kind: how an explanation words its attribute, the flaw's category, and the parts that show it (empty: all)."""
HUES = (*COLOURS, *BACKGROUNDS)
"""Colours of things, then backgrounds."""
UNSEEN = -1
"""The kind of a flaw that cannot be found without the caption."""


class Shown(NamedTuple):
    """One image, its caption and its true regions, in the order in which an answer names them."""

    image: Pixels
    """Uint8 (96, 96, 3)."""
    caption: str
    found: tuple[Claim, ...]
    """What the right answer says about each region."""
    masks: NDArray[np.bool_]
    """Bool (R, 96, 96)."""
    kinds: tuple[int, ...]
    """Kind of each region's flaw: an index into ``KIND_NAMES``, or ``UNSEEN``."""
    parts: Pixels
    """Uint8 (48, 48), every second pixel: the part that should be there, 1 + index into ``PART_NAMES``, 0 for none."""


def draw(rng: np.random.Generator, clean_share: float = CLEAN_SHARE) -> Shown:
    """A random image. It is clean with probability ``clean_share``, else it has a flaw on each of 1 to all things."""
    picture = draw_injected(rng, clean_share)
    kinds = [KIND_NAMES.index(kind) for kind in picture.kinds]
    return _shown(np.asarray(picture.image), picture.scene, picture.regions, kinds, SURE)


def natural(painting: Painting) -> list[Shown]:
    """The images of a ``Painting`` (generated images of one scene) with their true regions."""
    items = []
    for picture, scene, flaws in zip(painting.pictures, painting.scenes, painting.flaws, strict=True):
        regions = regions_of(flaws, scene)[:MOST_REGIONS]
        items.append(_shown(picture, scene, regions, [KIND_NAMES.index("malformed")] * len(regions), LESS_SURE))
    return items


def _shown(image: Pixels, scene: Scene, regions: Sequence[Region], kinds: Sequence[int], sure: float) -> Shown:
    found = [found_of(region, sure) for region in regions]
    masks = np.zeros((len(regions), SIZE, SIZE), dtype=np.bool_)
    for row, region in enumerate(regions):
        masks[row] = region.pixels(FRAME)
    return _ordered(Shown(image, scene.caption, tuple(found), masks, tuple(kinds), part_map(scene)))


def found_of(region: Region, sure: float = SURE) -> Claim:
    """What the right answer says about a true region."""
    return Claim(
        name=region.name,
        location=region.location,
        explanation=region.explanation,
        reasoning=region.reasoning,
        category=region.category,
        severity=region.severity,
        score=sure,
        box=region.box,
    )


def _ordered(item: Shown) -> Shown:
    """Regions ordered by thirds of the image's height, then from left to right."""
    order = sorted(range(len(item.found)), key=lambda index: _reading_key(item.found[index].box))
    return item._replace(
        found=tuple(item.found[index] for index in order),
        masks=item.masks[order],
        kinds=tuple(item.kinds[index] for index in order),
    )


def _reading_key(box: Box | None) -> tuple[int, int]:
    x0, y0, x1, y1 = box or (0, 0, SIZE, SIZE)
    return (3 * (y0 + y1)) // (2 * SIZE), x0 + x1


def unlike(item: Shown, rng: np.random.Generator) -> Shown:
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
    return _ordered(
        item._replace(
            caption=dataclasses.replace(scene, things=things).caption,
            found=(*item.found, region),
            masks=np.concatenate([item.masks, mask[None]]),
            kinds=(*item.kinds, UNSEEN),
        )
    )


def _asked(thing: Thing, scene: Scene, rng: np.random.Generator) -> tuple[Thing, str, str, Category, tuple[str, ...]]:
    """Another thing than the one shown, both in words, the category of the difference, and the parts that show it
    (empty: all)."""
    choice = rng.random()
    if choice < 0.4 and thing.kind in _ATTRIBUTES:
        template, category, parts = _ATTRIBUTES[thing.kind]
        other = _other(rng, KINDS[thing.kind].attributes, thing.attribute)
        wanted = dataclasses.replace(thing, attribute=other)
        return wanted, template.format(thing.attribute), template.format(other), category, parts
    if choice < 0.75:
        wanted = dataclasses.replace(thing, colour=_other(rng, tuple(COLOURS), thing.colour))
        return wanted, thing.colour, wanted.colour, Category.COLOR, ()
    shown = {each.kind for each in scene.things}
    kind = _other(rng, tuple(kind for kind in KINDS if kind not in shown), "")
    attributes = KINDS[kind].attributes
    wanted = Thing(kind=kind, colour=thing.colour, attribute=attributes[int(rng.integers(len(attributes)))])
    return wanted, f"a {thing.kind}", f"a {kind}", Category.COMMONSENSE, ()


def _other(rng: np.random.Generator, choices: Sequence[str], own: str) -> str:
    rest = [choice for choice in choices if choice != own]
    return rest[int(rng.integers(len(rest)))]


def mask_of(parts: Pixels, kind: str, names: Sequence[str] = ()) -> Mask:
    """The pixels where a thing, or some of its parts, should be, bool (96, 96). ``names`` empty: all parts."""
    labels = [
        1 + label
        for label, name in enumerate(PART_NAMES)
        if name.startswith(f"{kind}: ") and (not names or name.partition(": ")[2] in names)
    ]
    mask: Mask = np.isin(parts, labels).repeat(2, axis=0).repeat(2, axis=1)
    return mask


class Album:
    """Shards of images. A shard is made when it is first needed, and stored in a folder.

    Args:
        folder: folder of the shards; made if missing.
        gallery: generated images with the generator's own flaws, for the odd shards. The even shards have injected
            flaws. None: all shards have injected flaws.
        seed: shard i depends only on seed + i.
        shard: number of images in a shard of injected flaws.
    """

    def __init__(self, folder: Path, gallery: Gallery | None = None, seed: int = 5_000_000, shard: int = 1000) -> None:
        self.folder, self.gallery, self.seed, self.shard = folder, gallery, seed, shard
        self.items: list[Shown] = []
        self.shards = 0
        folder.mkdir(parents=True, exist_ok=True)

    def grow(self, shards: int) -> None:
        """Load or make shards until there are at least ``shards``."""
        while self.shards < shards:
            own = self.gallery is not None and self.shards % 2 == 1
            path = self.folder / f"{'natural' if own else 'injected'}-{self.seed + self.shards}-{self.shard}.npz"
            if not path.exists():
                _write(path, self._draw(self.shards, own))
            self.items += _read(path)
            self.shards += 1

    def _draw(self, index: int, own: bool) -> list[Shown]:
        if own and self.gallery is not None:
            return [item for painting in self.gallery[index // 2] for item in natural(painting)]
        rng = np.random.default_rng(self.seed + index)
        return [draw(rng) for _ in range(self.shard)]


def _write(path: Path, items: Sequence[Shown]) -> None:
    texts = [[item.caption, list(map(record_of, item.found))] for item in items]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.stack([item.image for item in items]),
        parts=np.stack([item.parts for item in items]),
        masks=np.packbits(np.concatenate([item.masks for item in items]), axis=-1),
        kinds=np.array([kind for item in items for kind in item.kinds], dtype=np.int64),
        texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
    )
    atomic_write(path, buffer.getvalue())


def _read(path: Path) -> list[Shown]:
    with np.load(path) as file:
        images, parts, kinds, texts = (file[name] for name in ("images", "parts", "kinds", "texts"))
        masks = np.unpackbits(file["masks"], axis=-1, count=SIZE).astype(np.bool_)
    items, start = [], 0
    for image, part, (caption, entries) in zip(images, parts, json.loads(texts.tobytes()), strict=True):
        stop = start + len(entries)
        found = tuple(map(recorded, entries))
        items.append(Shown(image, caption, found, masks[start:stop], tuple(kinds[start:stop].tolist()), part))
        start = stop
    return items


def kind_of(label: int) -> str:
    """The kind of thing that a label of the part map belongs to."""
    return PART_NAMES[label - 1].partition(": ")[0]


def hues_of(item: Shown) -> Pixels:
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
