"""The micro judge's pictures, drawn ahead into shards and read back in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refiner.files import atomic_write
from refiner.training.preference.data import PICTURES, JudgeSample, Retouch, draw_sample, natural_sample
from refiner.training.world.labels import PART_NAMES
from refiner.training.world.paintings import VIEWS, Gallery

_SHIFT = 3


class Labels(NamedTuple):
    """The truth about the patches of N pictures."""

    things: Tensor
    """Int (N, 3, CELLS, CELLS), as in ``thing_labels``."""
    parts: Tensor
    """Float (N, CELLS, CELLS, parts) of 0 and 1, as in ``part_labels``."""
    flaws: Tensor
    """Int (N, CELLS, CELLS), as in ``JudgeSample``."""


class Pool:
    """Samples that were drawn ahead; the pictures stay on disk.

    Args:
        folder: of the shards.
        shards: how many to open.
        names: what a sample's pictures are, in order.
    """

    def __init__(self, folder: Path, shards: int, names: tuple[str, ...]) -> None:
        stems = [folder / f"{index:03d}" for index in range(shards)]
        self.names = names
        self.pictures = [np.load(stem.with_suffix(".npy"), mmap_mode="r") for stem in stems]
        texts = [json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")) for stem in stems]
        self.captions: list[list[str]] = [row for text in texts for row in text["captions"]]
        files = [np.load(stem.with_suffix(".npz")) for stem in stems]
        self.things, self.parts, self.flaws, better = (
            np.concatenate([file[name] for file in files]) for name in ("things", "parts", "flaws", "better")
        )
        self.better = torch.from_numpy(better)
        """As in ``JudgeSample``, (samples, N, N)."""
        self.shard_size = len(self.pictures[0])

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, indices: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Tensor, Labels]:
        """Named pictures of some samples, name by name: float (N, 3, 96, 96) in [0, 1], and their labels."""
        rows = [self.pictures[index // self.shard_size][index % self.shard_size] for index in indices.tolist()]
        places = [self.names.index(name) for name in names]
        pictures = np.concatenate([np.stack([row[place] for row in rows]) for place in places])
        things, parts, flaws = (
            np.concatenate([labels[indices, place] for place in places])
            for labels in (self.things, self.parts, self.flaws)
        )
        parts = np.unpackbits(parts, axis=-1, count=len(PART_NAMES))
        labels = Labels(*(torch.from_numpy(rows) for rows in (things.astype(int), parts, flaws.astype(int))))
        return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, labels._replace(parts=labels.parts.float())


def build_pool(folder: Path, shards: int, size: int, seed: int, retouch: Retouch | None = None) -> Pool:
    """Draw the world's shards that are not there yet, ``size`` samples each, and open them all.

    ``retouch`` is done to every other shard, such as a round trip through the generator's autoencoder: what the judge
    will see has come out of one.
    """
    for index in range(shards):
        if (folder / f"{index:03d}.json").exists():
            continue
        samples = [draw_sample(np.random.default_rng([seed, index, number])) for number in range(size)]
        if retouch and index % 2:
            pictures = retouch(np.concatenate([sample.pictures for sample in samples]))
            each = np.split(pictures, size)
            samples = [sample._replace(pictures=own) for sample, own in zip(samples, each, strict=True)]
        _write(folder, index, samples)
    return Pool(folder, shards, PICTURES)


def build_naturals(folder: Path, shards: int, gallery: Gallery) -> Pool:
    """The same for natural samples, one shard for each of the gallery's."""
    for index in range(shards):
        if not (folder / f"{index:03d}.json").exists():
            _write(folder, index, [natural_sample(painting) for painting in gallery[index]])
    return Pool(folder, shards, VIEWS)


def _write(folder: Path, index: int, samples: Sequence[JudgeSample]) -> None:
    """Write a shard; its JSON file, which comes last, says that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{index:03d}"
    np.save(stem.with_suffix(".npy"), np.stack([sample.pictures for sample in samples]))
    np.savez(
        stem.with_suffix(".npz"),
        things=np.stack([sample.things for sample in samples]),
        parts=np.packbits(np.stack([sample.parts for sample in samples]), axis=-1),
        flaws=np.stack([sample.flaws for sample in samples]),
        better=np.stack([sample.better for sample in samples]),
    )
    atomic_write(stem.with_suffix(".json"), json.dumps({"captions": [sample.captions for sample in samples]}))


def decoder_look(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as a decoder might give them: a little soft, noisy and off in colour.

    Each picture gets its own amounts, so that they say nothing about which one is flawed. Draws from torch's generator.
    """
    count = len(pictures)
    softness = torch.rand(count, 1, 1, 1) ** 2
    soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = torch.lerp(pictures, soft, 0.6 * softness)
    gain = 1 + 0.04 * torch.randn(count, 1, 1, 1)
    out = (out - 0.5) * gain + 0.5 + 0.012 * torch.randn(count, 3, 1, 1)
    return (out + 0.025 * torch.rand(count, 1, 1, 1) ** 2 * torch.randn_like(out)).clamp(0, 1)


def shifted(pictures: Tensor, samples: Sequence[int]) -> Tensor:
    """Pictures (B, 3, H, W) moved by up to ``_SHIFT`` pixels, too little for the labels of their patches to change.

    Those of one sample move alike, so that they still differ in nothing but what is wrong with them. Draws from torch's
    generator.
    """
    height, width = pictures.shape[2:]
    wide = functional.pad(pictures, (_SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * _SHIFT + 1, (max(samples) + 1, 2))[list(samples)].tolist()
    moved = [picture[:, y : y + height, x : x + width] for picture, (y, x) in zip(wide, corners, strict=True)]
    return torch.stack(moved)
