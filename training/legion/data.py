"""Training data of LEGION: images of the micro world with the right answers, stored in shards and read in batches.

A thing is one object of the micro world.
"""

from __future__ import annotations

import dataclasses
import io
import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from refiner.detectors.legion.grammar import OPENING, SEVERITIES, compose
from refiner.files import atomic_write
from refiner.masks import box_of, location_words
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.things import COLOURS, KINDS
from refiner.micro.world import SIZE, Scene, sample_scene
from refiner.taxonomy import Category
from refiner.training.world.claims import record_of, recorded
from refiner.training.world.flaws import EXPLANATION, REASONING, Pixels, category_of, regions_of
from refiner.training.world.labels import KIND_NAMES, PART_NAMES, Augment, decoder_like, part_map
from refiner.training.world.paintings import Gallery, Painting
from refiner.training.world.scenes import draw_injected
from refiner.types import Box, Claim, Region, Size

CLEAN_SHARE = 0.35
"""Share of images without a flaw in shards of injected flaws."""
INJECTED_EVERY = 3
"""One of this many shards holds injected flaws. The other shards hold images from the generator."""
MEAN, STD = 0.5, 0.5
"""The input of both towers is (value / 255 - MEAN) / STD."""
_LENGTH_STEP = 32
"""Answers are padded to multiples of this, because kernels are prepared again for every new shape."""
LEEWAY = 6
"""Largest shift of an image in training, in pixels."""


class Drawn(NamedTuple):
    """One image with its true regions, in the order in which an answer names them."""

    image: Pixels
    """Uint8 (96, 96, 3)."""
    masks: NDArray[np.bool_]
    """Bool (R, 96, 96)."""
    findings: tuple[Claim, ...]
    """What an answer says about each region."""
    kinds: tuple[int, ...]
    """Kind of each region's flaw, as an index into ``KIND_NAMES``."""
    parts: Pixels
    """Uint8 (48, 48), every second pixel: the part that should be there, 1 + index into ``PART_NAMES``, 0 for none."""
    caption: str = ""
    """Caption of the scene; empty if it was not stored."""


def finding_of(region: Region) -> Claim:
    """What the right answer says about a true region."""
    return Claim(
        name=region.name,
        location=region.location,
        explanation=region.explanation,
        reasoning=region.reasoning,
        category=region.category,
        severity=region.severity,
    )


def draw(rng: np.random.Generator, clean_share: float = CLEAN_SHARE) -> Drawn:
    """A random image. It is clean with probability ``clean_share``, else it has a flaw on each of 1 to all things.

    Regions are ordered by thirds of the image's height, then from left to right.
    """
    picture = draw_injected(rng, clean_share)
    return _drawn(np.asarray(picture.image), picture.scene, picture.regions, picture.kinds)


def natural(painting: Painting) -> list[Drawn]:
    """The images of a ``Painting`` (generated images of one scene) with their true regions."""
    items = []
    for picture, scene, flaws in zip(painting.pictures, painting.scenes, painting.flaws, strict=True):
        regions = regions_of(flaws, scene)
        items.append(_drawn(picture, scene, regions, ["malformed"] * len(regions)))
    return items


def _drawn(image: Pixels, scene: Scene, regions: Sequence[Region], kinds: Sequence[str]) -> Drawn:
    order = sorted(range(len(regions)), key=lambda index: _reading_key(regions[index].box))
    masks = np.zeros((len(regions), SIZE, SIZE), dtype=np.bool_)
    for row, index in enumerate(order):
        masks[row] = regions[index].pixels(Size(SIZE, SIZE))
    findings = tuple(finding_of(regions[index]) for index in order)
    numbers = tuple(KIND_NAMES.index(kinds[index]) for index in order)
    return Drawn(image, masks, findings, numbers, part_map(scene), scene.caption)


def _reading_key(box: Box) -> tuple[int, int]:
    x0, y0, x1, y1 = box
    return (3 * (y0 + y1)) // (2 * SIZE), x0 + x1


def moved(item: Drawn, rng: np.random.Generator) -> Drawn:
    """Shift an image by up to ``LEEWAY`` pixels in each direction, with its masks, locations and part map.

    The edges of the image are repeated. A region that moves out of the image is dropped.
    """
    down, right = (2 * int(step) for step in rng.integers(-LEEWAY // 2, LEEWAY // 2 + 1, 2))
    rows, columns = ((np.arange(SIZE) - by).clip(0, SIZE - 1) for by in (down, right))
    masks = item.masks[:, rows][:, :, columns]
    boxes = {place: box for place, mask in enumerate(masks) if (box := box_of(mask)) is not None}
    order = sorted(boxes, key=lambda place: _reading_key(boxes[place]))
    return item._replace(
        image=item.image[rows][:, columns],
        masks=masks[order],
        findings=tuple(
            dataclasses.replace(item.findings[place], location=location_words(boxes[place], Size(SIZE, SIZE)))
            for place in order
        ),
        kinds=tuple(item.kinds[place] for place in order),
        parts=item.parts[rows[::2] // 2][:, columns[::2] // 2],
    )


def write_shard(path: Path, drawn: Sequence[Drawn]) -> None:
    """Write images and their true regions as one compressed file."""
    texts = [list(map(record_of, item.findings)) for item in drawn]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.stack([item.image for item in drawn]),
        parts=np.stack([item.parts for item in drawn]),
        masks=np.packbits(np.concatenate([item.masks for item in drawn]), axis=-1),
        kinds=np.array([kind for item in drawn for kind in item.kinds], dtype=np.int64),
        counts=np.array([len(item.kinds) for item in drawn], dtype=np.int64),
        texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
    )
    atomic_write(path, buffer.getvalue())


SHARD = 1000
"""Images in a shard."""


class Pool:
    """Shards of images in memory. A shard is made when it is first needed, and stored in a folder.

    Args:
        folder: folder of the shards; made if missing.
        seed: shard i depends only on seed + i.
        shard: number of images in a shard of injected flaws.
        gallery: generated images with the generator's own flaws, for two of three shards. None: all flaws are injected.
    """

    def __init__(self, folder: Path, seed: int = 1, shard: int = SHARD, gallery: Gallery | None = None) -> None:
        self.folder, self.seed, self.shard, self.gallery = folder, seed, shard, gallery
        self.files: list[dict[str, NDArray[np.generic]]] = []
        self.starts = [0]
        self.ends: list[NDArray[np.int64]] = []
        self.findings: list[tuple[Claim, ...]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def grow(self, shards: int) -> None:
        """Load or make shards until there are at least ``shards``."""
        while len(self.files) < shards:
            index = len(self.files)
            own = self.gallery is not None and index % INJECTED_EVERY > 0
            path = self.folder / f"{'natural' if own else 'pool'}-{self.seed + index}-{self.shard}.npz"
            if not path.exists():
                write_shard(path, self._draw(index, own))
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            self.findings += [tuple(map(recorded, entry)) for entry in json.loads(arrays.pop("texts").tobytes())]
            self.ends.append(arrays.pop("counts").cumsum())
            self.files.append(arrays)
            self.starts.append(len(self.findings))

    def _draw(self, index: int, own: bool) -> list[Drawn]:
        if own and self.gallery is not None:
            return [
                item for painting in self.gallery[index - index // INJECTED_EVERY - 1] for item in natural(painting)
            ]
        rng = np.random.default_rng(self.seed + index)
        return [draw(rng) for _ in range(self.shard)]

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: int) -> Drawn:
        shard = bisect_right(self.starts, index) - 1
        place = index - self.starts[shard]
        arrays, ends = self.files[shard], self.ends[shard]
        part = slice(ends[place - 1] if place else 0, ends[place])
        masks = np.unpackbits(np.asarray(arrays["masks"][part], np.uint8), axis=-1, count=SIZE).astype(np.bool_)
        kinds = tuple(arrays["kinds"][part].tolist())
        return Drawn(arrays["images"][place], masks, self.findings[index], kinds, arrays["parts"][place])


def example_answers() -> list[str]:
    """One answer for each kind of flaw on each thing, and for each part that the generator may draw wrongly."""
    rng, findings = np.random.default_rng(0), list[Claim]()
    for kind in FLAWS.values():
        for thing in kind.things:
            while (scene := sample_scene(rng, 1)).things[0].kind != thing:
                pass
            findings += [finding_of(region) for region in inject(scene, rng, 1, [kind.name]).regions]
    for thing, _, part in (name.partition(": ") for name in PART_NAMES):
        findings.append(
            dataclasses.replace(
                findings[0],
                name=f"the {part} of the red {thing}",
                explanation=EXPLANATION.format(part=part),
                reasoning=REASONING.format(part=part, kind=thing),
                category=category_of(part),
            )
        )
    return [compose([finding]) for finding in findings]


def vocabulary_texts() -> list[str]:
    """Texts that together contain every word of all possible answers in the micro world."""
    texts = [compose(_numbered(count)) for count in range(10)] + example_answers()
    middles = [(x, y) for y in (1, SIZE // 2, SIZE - 2) for x in (1, SIZE // 2, SIZE - 2)]
    texts += [f", {location_words((x, y, x + 1, y + 1), Size(SIZE, SIZE))}" for x, y in middles]
    texts += [f" ({category.legion}, {category}, {word})." for category in Category for word in SEVERITIES]
    texts += [f" {colour} {kind}" for colour in COLOURS for kind in KINDS]
    return texts


def _numbered(count: int) -> list[Claim]:
    return [Claim(category=Category.SHAPE, severity=0.5)] * count


class LegionBatch(NamedTuple):
    """B images with their answers. They have S regions together, image by image."""

    pixels: Tensor
    """Float (B, 3, 96, 96), normalised for both towers."""
    ids: Tensor
    """Int (B, L): prompt and answer, padded on the right."""
    labels: Tensor
    """Int (B, L): the tokens of the answer, -100 elsewhere."""
    place: Tensor
    """Int (): position in ``ids`` of the word for the number of flaws."""
    masks: Tensor
    """Float (S, 96, 96) of 0 and 1."""
    rows: Tensor
    """Int (S,): index of each region's image in the batch."""
    kinds: Tensor
    """Int (S,): index into ``KIND_NAMES``."""
    parts: Tensor
    """Int (B, 48, 48): the part that should be there, 1 + index into ``PART_NAMES``, 0 for none."""
    real: Tensor
    """Int (B,): 1 for an image without flaws, 0 for a flawed one, as in LEGION's code."""


def normalise(images: Pixels) -> Tensor:
    """Convert images, uint8 (B, 96, 96, 3), to the input of both towers, float (B, 3, 96, 96) in [-1, 1]."""
    values = (images.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def collate(items: Sequence[Drawn], tokenizer: PreTrainedTokenizerFast, prompt_ids: Sequence[int]) -> LegionBatch:
    """Put images and their answers into one batch."""
    end = tokenizer.eos_token_id
    answers = [[*tokenizer.encode(compose(item.findings), add_special_tokens=False), end] for item in items]
    length = -(-(len(prompt_ids) + max(map(len, answers))) // _LENGTH_STEP) * _LENGTH_STEP
    ids = torch.full((len(items), length), tokenizer.pad_token_id)
    labels = torch.full((len(items), length), -100)
    for row, answer in enumerate(answers):
        stop = len(prompt_ids) + len(answer)
        ids[row, :stop] = torch.tensor([*prompt_ids, *answer])
        labels[row, len(prompt_ids) : stop] = torch.tensor(answer)
    return LegionBatch(
        pixels=normalise(np.stack([item.image for item in items])),
        ids=ids,
        labels=labels,
        place=torch.tensor(len(prompt_ids) + len(tokenizer.encode(OPENING, add_special_tokens=False))),
        masks=torch.from_numpy(np.concatenate([item.masks for item in items])).float(),
        rows=torch.tensor([row for row, item in enumerate(items) for _ in item.kinds], dtype=torch.long),
        kinds=torch.tensor([kind for item in items for kind in item.kinds], dtype=torch.long),
        parts=torch.from_numpy(np.stack([item.parts for item in items])).long(),
        real=torch.tensor([0 if item.kinds else 1 for item in items]),
    )


def sample_batch(
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    prompt_ids: Sequence[int],
    *,
    seed: tuple[int, ...],
    size: int,
    augment: Augment = decoder_like,
) -> LegionBatch:
    """Draw ``size`` images from the pool, shift and augment them. The same ``seed`` gives the same batch."""
    rng = np.random.default_rng(seed)
    items = [moved(pool[int(index)], rng) for index in rng.choice(len(pool), size, replace=False)]
    return collate([item._replace(image=augment(item.image, rng)) for item in items], tokenizer, prompt_ids)
