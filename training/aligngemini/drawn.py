"""What the bundled branches learn: semantic flaws of drawn images, and an autoencoder's traces in drawn images."""

from __future__ import annotations

import io
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.data.writing.reconstruction import Autoencoder
from refiner.errors import InputError
from refiner.files import atomic_write
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import render, sample_scene
from refiner.taxonomy import Category
from refiner.training.aligngemini.pairs import Pair
from refiner.training.runs import Run
from refiner.training.world.injected import InjectedData
from refiner.training.world.scores import HELD_OUT_SEED

Pixels = NDArray[np.uint8]
SEMANTIC = frozenset(
    {
        Category.ANATOMY, Category.COMMONSENSE, Category.OPTICS, Category.PERSPECTIVE, Category.PHYSICAL_LAW,
        Category.TEXT,
    }
)  # fmt: skip
"""Categories of flaws in what an image shows; the others are flaws of its pixels."""
KINDS = tuple(name for name, kind in FLAWS.items() if kind.category in SEMANTIC)
"""The kinds of semantic flaws."""
_SEED = 7_100_000  # no other recipe uses it, nor the next numbers
_SHARD = 100
_AT_ONCE = 16


def semantic_data(count: int) -> InjectedData:
    """Drawn images with semantic flaws alone, and clean ones."""
    return InjectedData(count, without=tuple(name for name in FLAWS if name not in KINDS), seed=_SEED)


class DrawnPairs:
    """Clean drawn images with their reconstructions by the bundled generator's autoencoder.

    They are made once, in shards of ``_SHARD`` images in the run's folder.

    Args:
        count: number of pairs.
        run: names the folder and the bundled generator.
    """

    def __init__(self, count: int, run: Run) -> None:
        self.count, self.folder, self.generator = count, run.folder / "pairs", run.weights / "generator"
        self._shard = lru_cache(None)(self._read)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Pair:
        """The pair at a place. Raises InputError if its shard cannot be read."""
        number, row = divmod(place, _SHARD)
        real, fake = self._shard(number)
        return Pair(Image.fromarray(real[row]), Image.fromarray(fake[row]))

    def make(self) -> None:
        """Make the shards that are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(-(-self.count // _SHARD)):
            path = self.folder / f"{number:04d}.npz"
            if not path.exists():
                atomic_write(path, _packed(*reconstructed(self.autoencoder, [_SEED + 1, number], _SHARD)))

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """That of the bundled generator."""
        return Autoencoder.from_pretrained(self.generator, "cpu")

    def _read(self, number: int) -> tuple[Pixels, Pixels]:
        path = self.folder / f"{number:04d}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return stored["real"], stored["fake"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"The pairs {str(path)!r} cannot be read ({error}): delete the file.") from error


def _packed(real: Pixels, fake: Pixels) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, real=real, fake=fake)
    return packed.getvalue()


def reconstructed(autoencoder: Autoencoder, seed: list[int], count: int) -> tuple[Pixels, Pixels]:
    """Clean renders, uint8 (count, 96, 96, 3), and their reconstructions."""
    rng = np.random.default_rng(seed)
    real = [np.asarray(render(sample_scene(rng))) for _ in range(count)]
    seeds = rng.integers(2**62, size=count).tolist()
    fake = [
        pixels
        for start in range(0, count, _AT_ONCE)
        for pixels in autoencoder(real[start : start + _AT_ONCE], seeds[start : start + _AT_ONCE])
    ]
    return np.stack(real), np.stack(fake)


class Case(NamedTuple):
    """A held-out image."""

    image: Image.Image
    fake: bool


def held_out(count: int, generator: Path, seed: int = 0) -> dict[str, list[Case]]:
    """Sets of held-out images, each with ``count`` real and ``count`` generated ones; other seeds give other images.

    ``semantic``: clean drawn images, and ones with semantic flaws. ``pixel``: clean ones, and reconstructions of them.
    ``mixture``: clean ones, and in turn images with semantic flaws, reconstructions, and reconstructions of images with
    semantic flaws.
    """
    autoencoder = Autoencoder.from_pretrained(generator, "cpu")
    rng = np.random.default_rng([HELD_OUT_SEED, 27, seed])
    scenes = [sample_scene(rng, 1 + place % 4) for place in range(count)]
    clean = [np.asarray(render(scene)) for scene in scenes]
    flawed = [
        np.asarray(inject(scene, rng, int(rng.integers(1, len(scene.things) + 1)), KINDS).image) for scene in scenes
    ]
    seeds = list(range(count))
    decoded, both = _decoded(autoencoder, clean, seeds), _decoded(autoencoder, flawed, seeds)
    mixed = [(flawed, decoded, both)[place % 3][place] for place in range(count)]
    sets = {"semantic": flawed, "pixel": decoded, "mixture": mixed}
    return {name: [*_cases(clean, fake=False), *_cases(own, fake=True)] for name, own in sets.items()}


def _decoded(autoencoder: Autoencoder, pictures: list[Pixels], seeds: list[int]) -> list[Pixels]:
    starts = range(0, len(pictures), _AT_ONCE)
    return [
        pixels
        for start in starts
        for pixels in autoencoder(pictures[start : start + _AT_ONCE], seeds[start : start + _AT_ONCE])
    ]


def _cases(pictures: list[Pixels], *, fake: bool) -> list[Case]:
    return [Case(Image.fromarray(pixels), fake) for pixels in pictures]
