"""Drawn pairs of the micro world: a scene without flaws, and the same scene with flaws.

The first is the "real" image, the second the "generated" one. As X-AIGD pairs images by their captions, only the flaws
tell them apart. Drawing is slow, so pairs are drawn once and kept in files.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors.xaigd.config import CATEGORIES
from refiner.files import atomic_write
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import SIZE, render, sample_scene
from refiner.training.fit import Draw
from refiner.training.world.labels import decoder_like
from refiner.training.xaigd.data import Lesson

Pixels = NDArray[np.uint8]

_SEED = 7_000_000  # no other recipe uses it
LEEWAY = 6  # largest shift of a pair in training, in pixels


class Pair(NamedTuple):
    """Two images of one scene."""

    generated: Pixels  # uint8 (96, 96, 3), with flaws
    real: Pixels  # the same without flaws
    bits: Pixels  # uint8 (96, 96): bit i is set where there is a flaw of category i of ``CATEGORIES``


def draw_pair(rng: np.random.Generator, kinds: tuple[str, ...]) -> Pair:
    """A random pair whose flaws are of ``kinds``, one on each of 1 to all things (objects) of the scene."""
    while True:
        scene = sample_scene(rng)
        flaws = inject(scene, rng, int(rng.integers(1, len(scene.things) + 1)), kinds)
        if flaws.regions:
            break
    bits = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for region in flaws.regions:
        bits[region.mask] |= np.uint8(1 << CATEGORIES.index(region.category.xaigd))
    return Pair(np.asarray(flaws.image), np.asarray(render(scene)), bits)


class DrawnPairs:
    """Shards of pairs in memory. A shard is drawn when it is first needed, and kept in a folder.

    Args:
        folder: of the shards; made if missing.
        shard: pairs in a shard.
        without: kinds of flaws that never occur.
        seed: of the training.
    """

    def __init__(self, folder: Path, *, shard: int = 500, without: tuple[str, ...] = (), seed: int = 0) -> None:
        self.folder, self.shard, self.seed = folder, shard, seed
        self.kinds = tuple(name for name in FLAWS if name not in without)
        self.files: list[Pair] = []
        folder.mkdir(parents=True, exist_ok=True)

    def grow(self, shards: int) -> None:
        """Load or draw shards until there are at least ``shards``."""
        while len(self.files) < shards:
            path = self.folder / f"pairs-{len(self.files)}-{self.shard}.npz"
            if not path.exists():
                self._write(path, np.random.default_rng([_SEED, len(self.files)]))
            with np.load(path) as file:
                self.files.append(Pair(*(file[name] for name in Pair._fields)))

    def _write(self, path: Path, rng: np.random.Generator) -> None:
        pairs = [draw_pair(rng, self.kinds) for _ in range(self.shard)]
        stacked: dict[str, Any] = {name: np.stack([getattr(pair, name) for pair in pairs]) for name in Pair._fields}
        packed = io.BytesIO()
        np.savez_compressed(packed, **stacked)
        atomic_write(path, packed.getvalue())

    def lessons(self, part: Draw, count: int) -> list[Lesson]:
        """``count`` random pairs: each generated image, and next to it the real one.

        Both are moved by the same distance and look as if the same decoder had made them (``decoder_like``).
        """
        rng = np.random.default_rng([self.seed, 5, *part.key])
        lessons: list[Lesson] = []
        for number in rng.integers(len(self.files) * self.shard, size=count).tolist():
            shard, row = divmod(number, self.shard)
            pair = moved(Pair(*(values[row] for values in self.files[shard])), rng)
            decoder = int(rng.integers(2**31))
            masks = np.stack([(pair.bits >> channel & 1).astype(np.bool_) for channel in range(len(CATEGORIES))])
            for fake, pixels in ((True, pair.generated), (False, pair.real)):
                image = Image.fromarray(decoder_like(pixels, np.random.default_rng(decoder)))
                lessons.append(Lesson("", image, fake, masks if fake else np.zeros_like(masks)))
        return lessons


def moved(pair: Pair, rng: np.random.Generator) -> Pair:
    """Shift a pair by up to ``LEEWAY`` pixels in each direction; the edges of the images are repeated."""
    rows, columns = ((np.arange(SIZE) - by).clip(0, SIZE - 1) for by in rng.integers(-LEEWAY, LEEWAY + 1, 2).tolist())
    return Pair(*(values[rows][:, columns] for values in pair))
