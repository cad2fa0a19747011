"""Questions to the vision-language model about images of the micro world, the right answers, and batches of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2TokenizerFast

from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.vlm.questions import finding, verifying
from refiner.masks import box_of, clip_box, location_words
from refiner.micro.world import parse_caption
from refiner.taxonomy import Category
from refiner.training.vlm.data import LESS_SURE, hues_of, kind_of, mask_of, unlike
from refiner.training.vlm.words import (
    FORM,
    PICTURE,
    WHERE,
    coordinates,
    find_answer,
    places_answer,
    rendered,
    told,
    verify_answer,
)
from refiner.training.world.flaws import EXPLANATION
from refiner.training.world.labels import PART_NAMES, decoder_like
from refiner.training.world.marked import UNSEEN, Marked, Shards, flaw_tensors
from refiner.training.world.scenes import to_tensor
from refiner.training.world.tokenizers import padded
from refiner.training.world.words import FRAME
from refiner.types import Box, Claim

UNTOLD = 0.25  # share of questions without the caption
UNLIKE = 0.3  # of the questions with a caption: share in which it asks for something else than the image shows
CHECKED = 0.15  # share of questions whether claims are true
LOCATED = 0.15  # Share of questions where parts are. They teach boxes faster than questions about flaws.
MOST_PLACES = 6  # largest number of things and parts in the answer to such a question
HASTY = 0.2  # of the other questions: share that asks only for clear flaws, as one-step detectors do
_LENGTH_STEP = 16  # texts are padded to multiples of this, because kernels are prepared again for every new shape
_FALSE_CLAIMS = (
    "the {part} is missing",
    EXPLANATION,
    "the {part} has a wrong colour",
    "the edge of the {part} is jagged",
)


class Exchange(NamedTuple):
    """A question about an image, and the right answer."""

    question: ChatRequest
    answer: str
    boxes_only: bool = False  # whether only the boxes of the answer are learnt, because other names would be right too


def ask(item: Marked, rng: np.random.Generator) -> tuple[Marked, Exchange]:
    """A random question about an image, with the right answer. The caption may be changed first (``unlike``)."""
    caption_told = rng.random() >= UNTOLD
    if caption_told and rng.random() < UNLIKE:
        item = unlike(item, rng)
    caption = item.caption if caption_told else ""
    kind = rng.random()
    if kind < LOCATED and (places := places_of(item, rng)):
        question = dataclasses.replace(finding(PICTURE, "", FORM, thorough=True), user=WHERE, schema=None)
        return item, Exchange(question, places_answer(places), boxes_only=True)
    if kind < LOCATED + CHECKED:
        claims = [(_jittered(region, rng), True) for region in item.found if rng.random() < 0.7]
        claims += [(claim, False) for _ in range(int(rng.integers(3))) if (claim := false_claim(item, rng))]
        if claims:
            claims = [claims[index] for index in rng.permutation(len(claims))]
            question = verifying(PICTURE, [claim for claim, _ in claims], FRAME, FORM, caption)
            return item, Exchange(question, verify_answer(claims))
    thorough = bool(rng.random() >= HASTY)
    question = finding(PICTURE, caption, FORM, thorough=thorough)
    return item, Exchange(question, find_answer(item.found))


def places_of(item: Marked, rng: np.random.Generator) -> list[tuple[str, Box]]:
    """Names and boxes of some of the things and parts that an image should show.

    The list is empty if the caption asks for something else than the image shows.
    """
    if UNSEEN in item.kinds:
        return []
    places = []
    for thing in parse_caption(item.caption).things:
        name = f"{thing.colour} {thing.kind}"
        labels = [label for label in np.unique(item.parts) if label and kind_of(label) == thing.kind]
        places.append((f"the {name}", mask_of(item.parts, thing.kind)))
        for label in labels:
            part = PART_NAMES[label - 1].partition(": ")[2]
            places.append((f"the {part} of the {name}", mask_of(item.parts, thing.kind, (part,))))
    chosen = rng.permutation(len(places))[:MOST_PLACES]
    return [(places[index][0], box) for index in chosen if (box := box_of(places[index][1]))]


def false_claim(item: Marked, rng: np.random.Generator) -> Claim | None:
    """A claim of a flaw at a random part that has no flaw. None if the part has a flaw, or is too small to be seen."""
    things = parse_caption(item.caption).things
    label = int(rng.choice(np.unique(item.parts)))
    if label == 0:
        return None
    kind, _, part = PART_NAMES[label - 1].partition(": ")
    colour = next((thing.colour for thing in things if thing.kind == kind), "")
    mask = mask_of(item.parts, kind, (part,))
    box = box_of(mask)
    if box is None or not colour or (mask & item.masks.any(axis=0)).any():
        return None
    template = _FALSE_CLAIMS[int(rng.integers(len(_FALSE_CLAIMS)))]
    region = Claim(
        name=f"the {part} of the {colour} {kind}",
        location=location_words(box, FRAME),
        explanation=template.format(part=part),
        reasoning="",
        category=Category.ANATOMY,
        severity=0.5,
        score=LESS_SURE,
        box=box,
    )
    return _jittered(region, rng)


def _jittered(region: Claim, rng: np.random.Generator) -> Claim:
    """The same claim with a box that is about as inexact as a model's box."""
    assert region.box is not None
    x0, y0, x1, y1 = (side + int(rng.integers(-3, 4)) for side in region.box)
    box = clip_box((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), FRAME)
    return dataclasses.replace(region, box=box or region.box)


class VlmBatch(NamedTuple):
    """B questions with answers. Their images have S visible flaws together, image by image."""

    pixels: Tensor  # float (B, 3, 96, 96), normalised
    ids: Tensor  # int (B, L): question and answer, padded on the right
    labels: Tensor  # int (B, L): the tokens of the answer, -100 elsewhere
    captions: Tensor  # int (B, L): the tokens of a caption that fits its image, -100 elsewhere
    masks: Tensor  # float (S, 96, 96) of 0 and 1
    rows: Tensor  # int (S,): index of each flaw's image in the batch
    kinds: Tensor  # int (S,): index into ``KIND_NAMES``
    parts: Tensor  # int (B, 48, 48): the part that should be there, 1 + index into ``PART_NAMES``, 0 for none
    hues: Tensor
    """Int (B, 48, 48): the colour or background that should be there, 1 + index into ``HUES``, 0 if unknown."""


def sample_batch(
    items: Shards | Sequence[Marked],
    tokenizer: Qwen2TokenizerFast,
    *,
    seed: tuple[int, ...],
    size: int,
    picture_tokens: int,
) -> VlmBatch:
    """Draw ``size`` images, augment them, and ask a question about each. The same ``seed`` gives the same batch."""
    rng = np.random.default_rng(seed)
    chosen = [items[int(index)] for index in rng.choice(len(items), size, replace=False)]
    asked = [ask(item._replace(image=decoder_like(item.image, rng)), rng) for item in chosen]
    return collate(asked, tokenizer, picture_tokens)


def collate(asked: Sequence[tuple[Marked, Exchange]], tokenizer: Qwen2TokenizerFast, picture_tokens: int) -> VlmBatch:
    """Tokenize questions and answers and put them and their images into one batch."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    questions = [encode(rendered(exchange.question, tokenizer, picture_tokens)) for _, exchange in asked]
    answers = [[*encode(exchange.answer), tokenizer.eos_token_id] for _, exchange in asked]
    ids, labels = padded(questions, answers, tokenizer.pad_token_id, _LENGTH_STEP)
    captions = torch.full_like(ids, -100)
    sides = torch.tensor([encode(text)[0] for end in (", ", "]") for text in coordinates(end)])
    before, after = (encode(text)[0] for text in told()[:2])
    for row, (question, (item, exchange)) in enumerate(zip(questions, asked, strict=True)):
        if exchange.boxes_only:
            labels[row][~torch.isin(labels[row], sides)] = -100
        if before in question and after in question and UNSEEN not in item.kinds:
            span = slice(question.index(before) + 1, question.index(after))
            captions[row, span] = ids[row, span]
    items = [item for item, _ in asked]
    return VlmBatch(
        pixels=to_tensor(np.stack([item.image for item in items])),
        ids=ids,
        labels=labels,
        captions=captions,
        hues=torch.from_numpy(np.stack([hues_of(item) for item in items])).long(),
        **flaw_tensors(items),
    )
