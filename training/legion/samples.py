"""Batches of LEGION's training from the samples of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refiner.data.samples import DataSet
from refiner.detectors.legion.detector import LegionDetector
from refiner.errors import ConfigError, InputError
from refiner.taxonomy import PERCEPTUAL
from refiner.training.fit import Draw
from refiner.training.legion.answers import Taught, answer_of
from refiner.training.world.tokenizers import padded
from refiner.types import Size

_CATEGORIES = list(PERCEPTUAL)
_LENGTH_STEP = 32  # answers are padded to multiples of this, so that few different shapes occur


class Lesson(NamedTuple):
    """One image with the right answer."""

    name: str
    image: Image.Image
    answer: Taught


class SampleBatch(NamedTuple):
    """B images with their answers. Image i has S_i regions."""

    pixels: Tensor  # input of the CLIP tower, float (B, 3, H, W)
    sam_pixels: Tensor  # input of SAM's encoder, float (B, 3, P, P)
    ids: Tensor  # int (B, L): prompt and answer, padded on the right
    labels: Tensor  # int (B, L): the tokens of the answer, -100 elsewhere
    masks: tuple[Tensor, ...]  # of each image, float (S_i, H_i, W_i) of 0 and 1 at its own size
    scaled: tuple[tuple[int, int], ...]  # height and width of each image inside SAM's input
    kinds: tuple[tuple[int, ...], ...]  # of each image the category of each region, index into ``PERCEPTUAL``


class Samples:
    """Draws batches from a data set: each epoch goes through all samples once, in an order of its own.

    Samples that cannot be read are told once, and the next one is used instead.

    Args:
        data: the samples.
        detector: its tokenizer and processors.
        size: images in a micro-batch.
        longest: tokens of the longest text; longer answers are cut off.
        parts: micro-batches of a step, over all processes.
        stride: micro-batches between two of this process in one step (the number of processes).
        seed: of the order.
        tell: gets a sentence for each sample that cannot be used.

    Raises:
        ConfigError: ``longest`` leaves no room for an answer.
    """

    def __init__(
        self,
        data: DataSet,
        detector: LegionDetector,
        *,
        size: int,
        longest: int,
        parts: int,
        stride: int,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.data, self.detector = data, detector
        self.size, self.longest, self.parts, self.stride, self.seed = size, longest, parts, stride, seed
        if longest <= (question := len(detector.prompt_ids())):
            raise ConfigError(
                f"The setting max_length is {longest}, but the prompt alone has {question} tokens: raise it."
            )
        self.unusable: dict[int, str] = {}
        """Number of each sample that could not be used -> why."""
        self._tell = tell
        self._ahead: dict[Draw, Future[SampleBatch]] = {}
        self._pool = ThreadPoolExecutor(1)

    def batch(self, part: Draw) -> SampleBatch:
        """The batch of a draw; the next one is prepared meanwhile."""
        ready = self._ahead.pop(part, None)
        batch = self._batch(part) if ready is None else ready.result()
        following = self._next(part)
        self._ahead = {following: self._pool.submit(self._batch, following)}
        return batch

    def close(self) -> None:
        """Stop preparing batches."""
        self._pool.shutdown(cancel_futures=True)

    def _next(self, part: Draw) -> Draw:
        later = part.part + self.stride
        return Draw(part.step, later) if later < self.parts else Draw(part.step + 1, part.part % self.stride)

    def _batch(self, part: Draw) -> SampleBatch:
        first = (part.step * self.parts + part.part) * self.size
        return collate([self.lesson(first + place) for place in range(self.size)], self.detector, self.longest)

    def lesson(self, place: int) -> Lesson:
        """The sample at a place of the endless sequence of epochs.

        Raises:
            InputError: no sample can be used.
        """
        count = len(self.data.names)
        epoch, row = divmod(place, count)
        order = np.random.default_rng([self.seed, epoch]).permutation(count)
        for turn in range(count):
            index = int(order[(row + turn) % count])
            if index in self.unusable:
                continue
            try:
                return self._read(index)
            except InputError as error:
                self.unusable[index] = str(error)
                self._tell(str(error))
        raise InputError("No sample of the data can be used for training: see the messages above.")

    def _read(self, index: int) -> Lesson:
        sample = self.data.load(index)
        if sample.image is None:
            raise InputError(f"The sample {sample.name!r} has no image: choose data with images.")
        return Lesson(sample.name, sample.image, answer_of(sample))


def collate(lessons: Sequence[Lesson], detector: LegionDetector, longest: int) -> SampleBatch:
    """Put images and their answers into one batch; answers are cut at ``longest`` tokens, with their masks."""
    tokenizer, prompt = detector.tokenizer, detector.prompt_ids().tolist()
    answers = [_answer_ids(lesson.answer.text, detector)[: max(0, longest - len(prompt))] for lesson in lessons]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.unk_token_id
    ids, labels = padded([prompt] * len(lessons), answers, pad, _LENGTH_STEP)
    images = [lesson.image for lesson in lessons]
    sam = detector.sam_processor(images, return_tensors="pt")
    marks = [answer.count(detector.model.config.seg_token_id) for answer in answers]
    taught = [lesson.answer.regions[:count] for lesson, count in zip(lessons, marks, strict=True)]
    return SampleBatch(
        pixels=detector.clip_processor(images, return_tensors="pt")["pixel_values"],
        sam_pixels=sam["pixel_values"],
        ids=ids,
        labels=labels,
        masks=tuple(
            torch.from_numpy(np.stack([region.pixels(size) for region in regions])).float()
            if regions
            else torch.zeros(0, *size)
            for regions, size in zip(taught, map(_size, images), strict=True)
        ),
        scaled=tuple((int(height), int(width)) for height, width in sam["reshaped_input_sizes"].tolist()),
        kinds=tuple(tuple(_CATEGORIES.index(region.category) for region in regions) for regions in taught),
    )


def _answer_ids(text: str, detector: LegionDetector) -> list[int]:
    ids: list[int] = detector.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, detector.model.llava.config.text_config.eos_token_id]


def _size(image: Image.Image) -> Size:
    return Size(image.height, image.width)
