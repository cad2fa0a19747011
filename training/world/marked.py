"""Images of the micro world with their true regions: drawn at random, stored in shards, put into batches.

A thing is one object of the micro world.
"""

from __future__ import annotations

import dataclasses
import io
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.files import atomic_write
from refiner.micro.world import SIZE, Scene
from refiner.taxonomy import Category
from refiner.training.world.flaws import MOST_REGIONS, ImperfectGenerator, Pixels, regions_of
from refiner.training.world.labels import KIND_NAMES, part_map
from refiner.training.world.paintings import Gallery, Painting, paint
from refiner.training.world.scenes import draw_injected
from refiner.training.world.words import FRAME
from refiner.types import Box, Claim, Region

CLEAN_SHARE = 0.35  # default share of images without a flaw
UNSEEN = -1  # the kind of a flaw that cannot be found without the caption
_PAINTED = 20  # scenes that are generated in one batch


class Marked(NamedTuple):
    """One image, its caption and its true regions, in the order in which an answer names them."""

    image: Pixels  # uint8 (96, 96, 3)
    caption: str  # empty if it was not stored
    found: tuple[Claim, ...]  # what the right answer says about each region
    masks: NDArray[np.bool_]  # bool (R, 96, 96)
    kinds: tuple[int, ...]  # kind of each region's flaw: an index into ``KIND_NAMES``, or ``UNSEEN``
    parts: Pixels
    """Uint8 (48, 48), every second pixel: the part that should be there, 1 + index into ``PART_NAMES``, 0 for none."""


def draw(rng: np.random.Generator, clean_share: float = CLEAN_SHARE, score: float | None = None) -> Marked:
    """A random image. It is clean with probability ``clean_share``, else it has a flaw on each of 1 to all things.

    ``score`` is the confidence in each claim. None: the claims have neither a confidence nor a box.
    """
    picture = draw_injected(rng, clean_share)
    return _marked(np.asarray(picture.image), picture.scene, picture.regions, picture.kinds, score)


def drawn(rng: np.random.Generator, count: int, clean: bool, score: float | None = None) -> Iterator[Marked]:
    """``count`` random images, all without flaws or all with flaws."""
    while count:
        item = draw(rng, float(clean), score)
        if bool(item.kinds) != clean:
            count -= 1
            yield item


def natural(painting: Painting, score: float | None = None, most: int = MOST_REGIONS) -> list[Marked]:
    """The images of a ``Painting`` (generated images of one scene) with up to ``most`` true regions each."""
    items = []
    for picture, scene, flaws in zip(painting.pictures, painting.scenes, painting.flaws, strict=True):
        regions = regions_of(flaws, scene)[:most]
        items.append(_marked(picture, scene, regions, ["malformed"] * len(regions), score))
    return items


def generated(rng: np.random.Generator, count: int, imperfect: ImperfectGenerator) -> list[Painting]:
    """Paintings of new scenes with at least ``count`` images together."""
    paintings: list[Painting] = []
    while sum(len(painting.pictures) for painting in paintings) < count:
        paintings += paint(rng, _PAINTED, imperfect)
    return paintings


def _marked(
    image: Pixels, scene: Scene, regions: Sequence[Region], kinds: Sequence[str], score: float | None
) -> Marked:
    masks = np.zeros((len(regions), SIZE, SIZE), dtype=np.bool_)
    for row, region in enumerate(regions):
        masks[row] = region.pixels(FRAME)
    found = tuple(claim_of(region, score) for region in regions)
    numbers = tuple(KIND_NAMES.index(kind) for kind in kinds)
    item = Marked(image, scene.caption, found, masks, numbers, part_map(scene))
    return arranged(item, {row: region.box for row, region in enumerate(regions) if region.box})


def claim_of(region: Region, score: float | None = None) -> Claim:
    """What the right answer says about a true region. ``score`` as for ``draw``."""
    texts = {name: getattr(region, name) for name in ("name", "location", "explanation", "reasoning")}
    box = None if score is None else region.box
    return Claim(**texts, category=region.category, severity=region.severity, score=score, box=box)


def arranged(item: Marked, boxes: Mapping[int, Box]) -> Marked:
    """The item with only the regions that have a box, by thirds of the image's height, then from left to right."""

    def key(row: int) -> tuple[int, int]:
        x0, y0, x1, y1 = boxes[row]
        return (3 * (y0 + y1)) // (2 * SIZE), x0 + x1

    order = sorted(boxes, key=key)
    return item._replace(
        found=tuple(item.found[row] for row in order),
        masks=item.masks[order],
        kinds=tuple(item.kinds[row] for row in order),
    )


class Shards:
    """Shards of images in memory. A shard is made when it is first needed, and stored in a folder.

    Args:
        folder: folder of the shards; made if missing.
        gallery: generated images with the generator's own flaws. None: all flaws are injected.
        shard: number of images in a shard of injected flaws.
    """

    seed: int  # shard i depends only on seed + i
    every: int  # With a gallery, one of this many shards holds injected flaws. The others hold images from the gallery.
    injected: str  # the beginning of the file names of shards with injected flaws
    captions: bool  # whether captions are stored

    def __init__(self, folder: Path, gallery: Gallery | None = None, shard: int = 1000) -> None:
        self.folder, self.gallery, self.shard = folder, gallery, shard
        self.files: list[dict[str, NDArray[Any]]] = []
        self.starts = [0]
        self.texts: list[tuple[str, tuple[Claim, ...]]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, rng: np.random.Generator) -> Marked:
        """A random image with injected flaws, or without flaws."""
        return draw(rng)

    def natural(self, painting: Painting) -> list[Marked]:
        """The images of a painting."""
        return natural(painting)

    def grow(self, shards: int) -> None:
        """Load or make shards until there are at least ``shards``."""
        while len(self.files) < shards:
            index = len(self.files)
            own = self.gallery is not None and index % self.every > 0
            path = self.folder / f"{'natural' if own else self.injected}-{self.seed + index}-{self.shard}.npz"
            if not path.exists():
                self._write(path, self._items(index))
            with np.load(path) as file:
                arrays = dict(file)
            for row in json.loads(arrays.pop("texts").tobytes()):
                caption, entries = row if row and isinstance(row[0], str) else ("", row)
                self.texts.append((caption, tuple(map(_claim, entries))))
            added = self.texts[self.starts[-1] :]
            arrays["ends"] = np.cumsum([0, *(len(found) for _, found in added)])
            self.files.append(arrays)
            self.starts.append(len(self.texts))

    def _items(self, index: int) -> list[Marked]:
        if self.gallery is not None and index % self.every > 0:
            paintings = self.gallery[index - index // self.every - 1]
            return [item for painting in paintings for item in self.natural(painting)]
        rng = np.random.default_rng(self.seed + index)
        return [self.draw(rng) for _ in range(self.shard)]

    def _write(self, path: Path, items: Sequence[Marked]) -> None:
        records = [[_record(claim) for claim in item.found] for item in items]
        texts = [[item.caption, row] for item, row in zip(items, records, strict=True)] if self.captions else records
        counts: dict[str, Any] = (
            {} if self.captions else {"counts": np.array([len(row) for row in records], dtype=np.int64)}
        )
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            images=np.stack([item.image for item in items]),
            parts=np.stack([item.parts for item in items]),
            masks=np.packbits(np.concatenate([item.masks for item in items]), axis=-1),
            kinds=np.array([kind for item in items for kind in item.kinds], dtype=np.int64),
            **counts,
            texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
        )
        atomic_write(path, buffer.getvalue())

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Marked:
        shard = bisect_right(self.starts, index) - 1
        arrays, place = self.files[shard], index - self.starts[shard]
        part = slice(*arrays["ends"][place : place + 2])
        masks = np.unpackbits(arrays["masks"][part], axis=-1, count=SIZE).astype(np.bool_)
        kinds = tuple(arrays["kinds"][part].tolist())
        return Marked(arrays["images"][place], *self.texts[index], masks, kinds, arrays["parts"][place])


def _record(claim: Claim) -> dict[str, Any]:
    """The fields of a claim as JSON values, without empty ones. ``_claim`` is the inverse."""
    return {name: value for name, value in dataclasses.asdict(claim).items() if value not in (None, ())}


def _claim(entry: dict[str, Any]) -> Claim:
    box = tuple(entry["box"]) if "box" in entry else None
    return Claim(**{**entry, "category": Category(entry["category"]), "box": box})


def flaw_tensors(items: Sequence[Marked]) -> dict[str, Tensor]:
    """The visible flaws of B images, S together, image by image, and what should be there, as a batch holds them.

    Returns:
        ``masks``: float (S, 96, 96) of 0 and 1. ``rows``: int (S,), index of each flaw's image. ``kinds``: int (S,),
        index into ``KIND_NAMES``. ``parts``: int (B, 48, 48), as in ``Marked``.
    """
    seen = [[kind != UNSEEN for kind in item.kinds] for item in items]
    masks = [item.masks if all(visible) else item.masks[visible] for item, visible in zip(items, seen, strict=True)]
    kinds = [kind for item in items for kind in item.kinds if kind != UNSEEN]
    return {
        "masks": torch.from_numpy(np.concatenate(masks)).float(),
        "rows": torch.tensor([row for row, visible in enumerate(seen) for _ in range(sum(visible))], dtype=torch.long),
        "kinds": torch.tensor(kinds, dtype=torch.long),
        "parts": torch.from_numpy(np.stack([item.parts for item in items])).long(),
    }
