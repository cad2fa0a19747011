"""Shards of training images for the micro judge, made before the training and read in batches."""

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

_SHIFT = 3  # largest shift of an image in training, in pixels


class Labels(NamedTuple):
    """The truth about the patches of N images."""

    things: Tensor  # int (N, 3, CELLS, CELLS), as in ``thing_labels``
    parts: Tensor  # float (N, CELLS, CELLS, parts) of 0 and 1, as in ``part_labels``
    flaws: Tensor  # int (N, CELLS, CELLS), as in ``JudgeSample``


class Pool:
    """Stored samples. The images stay on disk. ``names`` are those of a sample's images, in order."""

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
        """As in ``JudgeSample``: bool (samples, N, N)."""
        self.shard_size = len(self.pictures[0])

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, indices: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Tensor, Labels]:
        """The images with the given names of some samples, and their labels.

        ``indices`` holds the S samples. The images are float (len(names) * S, 3, 96, 96) in [0, 1]. Images and labels
        are ordered by name.
        """
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
    """Make the missing shards of rendered samples, and open all shards.

    Each of the ``shards`` has ``size`` samples. ``retouch`` is applied to every second shard, such as a round trip
    through the generator's autoencoder: the images that the judge scores later come out of such an autoencoder.
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
    """Make the missing shards of natural samples, one for each shard of the gallery, and open all shards."""
    for index in range(shards):
        if not (folder / f"{index:03d}.json").exists():
            _write(folder, index, [natural_sample(painting) for painting in gallery[index]])
    return Pool(folder, shards, VIEWS)


def _write(folder: Path, index: int, samples: Sequence[JudgeSample]) -> None:
    """Write a shard. Its JSON file is written last: if it exists, the shard is complete."""
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
    """Imitate a decoder: add slight blur, noise and a colour shift to images, float (B, 3, H, W) in [0, 1].

    The amounts differ from image to image, so that they do not show which one is flawed. Uses torch's generator.
    """
    count = len(pictures)
    softness = torch.rand(count, 1, 1, 1) ** 2
    soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = torch.lerp(pictures, soft, 0.6 * softness)
    gain = 1 + 0.04 * torch.randn(count, 1, 1, 1)
    out = (out - 0.5) * gain + 0.5 + 0.012 * torch.randn(count, 3, 1, 1)
    return (out + 0.025 * torch.rand(count, 1, 1, 1) ** 2 * torch.randn_like(out)).clamp(0, 1)


def shifted(pictures: Tensor, samples: Sequence[int]) -> Tensor:
    """Shift images, (B, 3, H, W), by up to ``_SHIFT`` pixels. This is too little to change the labels of patches.

    ``samples`` holds the sample of each image. Images of one sample are shifted alike, so that they differ only in
    their flaws. Uses torch's generator.
    """
    height, width = pictures.shape[2:]
    wide = functional.pad(pictures, (_SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * _SHIFT + 1, (max(samples) + 1, 2))[list(samples)].tolist()
    moved = [picture[:, y : y + height, x : x + width] for picture, (y, x) in zip(wide, corners, strict=True)]
    return torch.stack(moved)
