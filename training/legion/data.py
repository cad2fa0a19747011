"""Training data of LEGION: images of the micro world with the right answers, stored in shards and read in batches.

A thing is one object of the micro world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from refiner.detectors.legion.grammar import OPENING, SEVERITIES, compose
from refiner.masks import box_of, location_words
from refiner.micro.things import COLOURS, KINDS
from refiner.micro.world import SIZE
from refiner.taxonomy import PERCEPTUAL, Category
from refiner.training.world.flaws import EXPLANATION, REASONING, Pixels, category_of
from refiner.training.world.labels import PART_NAMES, decoder_like
from refiner.training.world.marked import Marked, Shards, arranged, claim_of, flaw_tensors
from refiner.training.world.tokenizers import padded
from refiner.training.world.words import FRAME, injected_regions
from refiner.types import Claim

MEAN, STD = 0.5, 0.5  # the input of both towers is (value / 255 - MEAN) / STD
_LENGTH_STEP = 32  # answers are padded to multiples of this, because kernels are prepared again for every new shape
LEEWAY = 6  # largest shift of an image in training, in pixels


class Pool(Shards):
    """Shards of images. With a gallery, one of three holds injected flaws. Captions are not stored."""

    seed, every, injected, captions = 1, 3, "pool", False


def moved(item: Marked, rng: np.random.Generator) -> Marked:
    """Shift an image by up to ``LEEWAY`` pixels in each direction, with its masks, locations and part map.

    The edges of the image are repeated. A region that moves out of the image is dropped.
    """
    down, right = (2 * int(step) for step in rng.integers(-LEEWAY // 2, LEEWAY // 2 + 1, 2))
    rows, columns = ((np.arange(SIZE) - by).clip(0, SIZE - 1) for by in (down, right))
    masks, found = item.masks[:, rows][:, :, columns], list(item.found)
    boxes = {place: box for place, mask in enumerate(masks) if (box := box_of(mask)) is not None}
    for place, box in boxes.items():
        found[place] = dataclasses.replace(found[place], location=location_words(box, FRAME))
    shifted = item._replace(
        image=item.image[rows][:, columns],
        masks=masks,
        found=tuple(found),
        parts=item.parts[rows[::2] // 2][:, columns[::2] // 2],
    )
    return arranged(shifted, boxes)


def example_answers() -> list[str]:
    """One answer for each kind of flaw on each thing, and for each part that the generator may draw wrongly."""
    findings = [claim_of(region) for region in injected_regions()]
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
    texts = [compose([Claim(category=Category.SHAPE, severity=0.5)] * count) for count in range(10)]
    texts += example_answers()
    middles = [(x, y) for y in (1, SIZE // 2, SIZE - 2) for x in (1, SIZE // 2, SIZE - 2)]
    texts += [f", {location_words((x, y, x + 1, y + 1), FRAME)}" for x, y in middles]
    texts += [f" ({category.legion}, {category}, {word})." for category in PERCEPTUAL for word in SEVERITIES]
    texts += [f" {colour} {kind}" for colour in COLOURS for kind in KINDS]
    return texts


class LegionBatch(NamedTuple):
    """B images with their answers. They have S regions together, image by image."""

    pixels: Tensor  # float (B, 3, 96, 96), normalised for both towers
    ids: Tensor  # int (B, L): prompt and answer, padded on the right
    labels: Tensor  # int (B, L): the tokens of the answer, -100 elsewhere
    place: Tensor  # int (): position in ``ids`` of the word for the number of flaws
    masks: Tensor  # float (S, 96, 96) of 0 and 1
    rows: Tensor  # int (S,): index of each region's image in the batch
    kinds: Tensor  # int (S,): index into ``KIND_NAMES``
    parts: Tensor  # int (B, 48, 48): the part that should be there, 1 + index into ``PART_NAMES``, 0 for none
    real: Tensor  # int (B,): 1 for an image without flaws, 0 for a flawed one, as in LEGION's code


def normalise(images: Pixels) -> Tensor:
    """Convert images, uint8 (B, 96, 96, 3), to the input of both towers, float (B, 3, 96, 96) in [-1, 1]."""
    values = (images.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def collate(items: Sequence[Marked], tokenizer: PreTrainedTokenizerFast, prompt_ids: Sequence[int]) -> LegionBatch:
    """Put images and their answers into one batch."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    answers = [[*encode(compose(item.found)), tokenizer.eos_token_id] for item in items]
    ids, labels = padded([prompt_ids] * len(items), answers, tokenizer.pad_token_id, _LENGTH_STEP)
    return LegionBatch(
        pixels=normalise(np.stack([item.image for item in items])),
        ids=ids,
        labels=labels,
        place=torch.tensor(len(prompt_ids) + len(encode(OPENING))),
        real=torch.tensor([0 if item.kinds else 1 for item in items]),
        **flaw_tensors(items),
    )


def sample_batch(
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    prompt_ids: Sequence[int],
    *,
    seed: tuple[int, ...],
    size: int,
) -> LegionBatch:
    """Draw ``size`` images from the pool, shift and augment them. The same ``seed`` gives the same batch."""
    rng = np.random.default_rng(seed)
    items = [moved(pool[int(index)], rng) for index in rng.choice(len(pool), size, replace=False)]
    return collate([item._replace(image=decoder_like(item.image, rng)) for item in items], tokenizer, prompt_ids)
