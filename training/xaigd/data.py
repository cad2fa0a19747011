"""Batches of X-AIGD's trainings from the samples of a data set: generated images, each with a real one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refiner.data.samples import DataSet, Sample
from refiner.detectors.xaigd.config import CATEGORIES, XaigdConfig
from refiner.detectors.xaigd.fitting import mask_of, pixels_of
from refiner.errors import InputError
from refiner.files import atomic_write
from refiner.training.fit import Draw
from refiner.training.runs import Run
from refiner.training.xaigd.alignment import Floats, target_of
from refiner.training.xaigd.settings import XaigdSettings

_GENERATED, _REAL = 0, 1  # keep the orders of both apart


class Lesson(NamedTuple):
    """One image with the truth."""

    name: str
    image: Image.Image  # RGB
    fake: bool
    masks: NDArray[np.bool_] | None  # bool (7, H, W), in the order of ``CATEGORIES``; None if not known


class XaigdBatch(NamedTuple):
    """B images with their truth. S is the side of the network's input, h the number of patches in a row."""

    pixels: Tensor  # float (B, 3, S, S), normalised
    fake: Tensor  # float (B,): 1 for generated images
    masks: Tensor  # share of each category in each pixel, float (B, 7, S, S)
    targets: Tensor  # of the heat map, float (B, h, h)
    known: Tensor  # bool (B,): whether masks and target are known


def lesson_of(sample: Sample) -> Lesson:
    """The lesson of a sample; a real image has no artifacts.

    Raises:
        InputError: it has no image, or it is not known whether it is generated.
    """
    if sample.image is None or sample.fake is None:
        raise InputError(
            f"The sample {sample.name!r} has no image, or does not say whether it is generated: leave it out."
        )
    image = sample.image.convert("RGB")
    masks = np.zeros((len(CATEGORIES), image.height, image.width), dtype=np.bool_)
    if sample.truth is not None and sample.fake:
        for region in sample.truth.regions:
            if region.category.xaigd is not None:
                masks[CATEGORIES.index(region.category.xaigd)] |= region.pixels(sample.truth.size)
    known = not sample.fake or (sample.truth is not None and all(region.placed for region in sample.truth.regions))
    return Lesson(sample.name, image, sample.fake, masks if known else None)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """An image after JPEG with a quality from 1 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as file:
        return file.convert("RGB")


def collate(
    lessons: Sequence[Lesson], config: XaigdConfig, side: int, kind: str, rng: np.random.Generator
) -> XaigdBatch:
    """Put images with their truth into one batch.

    Args:
        lessons: the images.
        config: says how they become the network's input.
        side: patches in a row.
        kind: of the alignment; see ``alignment.target_of``.
        rng: for the alignment.
    """
    pixels = [pixels_of(lesson.image, config) for lesson in lessons]
    masks = [_masks(lesson.masks, config) for lesson in lessons]
    targets = [
        _target(lesson, own, image, side, kind, rng) for lesson, own, image in zip(lessons, masks, pixels, strict=True)
    ]
    return XaigdBatch(
        pixels=torch.from_numpy(np.stack(pixels)),
        fake=torch.tensor([float(lesson.fake) for lesson in lessons]),
        masks=torch.from_numpy(np.stack(masks)),
        targets=torch.from_numpy(np.stack(targets)),
        known=torch.tensor([lesson.masks is not None for lesson in lessons]),
    )


def _masks(masks: NDArray[np.bool_] | None, config: XaigdConfig) -> Floats:
    found = np.zeros((len(CATEGORIES), config.image_size, config.image_size), dtype=np.float32)
    for channel, mask in enumerate(masks if masks is not None else ()):
        if mask.any():
            found[channel] = mask_of(mask, config)
    return found


def _target(lesson: Lesson, masks: Floats, pixels: Floats, side: int, kind: str, rng: np.random.Generator) -> Floats:
    if not lesson.fake or kind == "none":
        return np.zeros((side, side), dtype=np.float32)
    return np.ascontiguousarray(target_of(kind, masks.max(axis=0), pixels, side, rng), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Which samples of a data set are generated, and which are real."""

    generated: tuple[int, ...]
    partners: tuple[tuple[int, ...], ...]
    """The real samples of the same pair, for each generated one."""
    real: tuple[int, ...]


def contents_of(data: DataSet, run: Run, *, keep: bool = True) -> Contents:
    """Look at all samples once. With ``keep``, what was seen is kept in ``samples.json`` in the run's folder.

    Raises:
        InputError: the file cannot be read.
    """
    path = run.folder / "samples.json"
    if not keep and not path.exists():
        return _contents(_rows(data, run))
    with run.processes.main_first():
        if not path.exists():
            rows = _rows(data, run)
            run.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(path, json.dumps(rows) + "\n")
    try:
        return _contents([(row[0], str(row[1])) for row in json.loads(path.read_text(encoding="utf-8"))])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"The list of samples {str(path)!r} cannot be read ({error}): delete the file.") from error


def steps_of(settings: XaigdSettings, contents: Contents, parts: int) -> int:
    """The steps of a training, each with ``parts`` micro-batches over all processes."""
    each = settings.batch // (2 if contents.real else 1)
    return settings.most_steps or math.ceil(settings.epochs * len(contents.generated) / (each * parts))


def _rows(data: DataSet, run: Run) -> list[tuple[bool | None, str]]:
    """Of each sample, whether it is generated, and its pair."""
    run.tell(f"Looking at {len(data.names)} samples: which are generated, and which belong together.")
    return [_row(data, index, run) for index in range(len(data.names))]


def _contents(kinds: Sequence[tuple[bool | None, str]]) -> Contents:
    real = tuple(row for row, (fake, _) in enumerate(kinds) if fake is False)
    generated = tuple(row for row, (fake, _) in enumerate(kinds) if fake is True)
    by_pair: dict[str, list[int]] = {}
    for row in real:
        if kinds[row][1]:
            by_pair.setdefault(kinds[row][1], []).append(row)
    partners = tuple(tuple(by_pair.get(kinds[row][1], ())) for row in generated)
    return Contents(generated=generated, partners=partners, real=real)


def _row(data: DataSet, index: int, run: Run) -> tuple[bool | None, str]:
    try:
        sample = data.load(index)
    except InputError as error:
        run.tell(str(error))
        return None, ""
    return (None if sample.image is None else sample.fake), sample.pair


class Samples:
    """Draws batches from a data set: an epoch goes through all generated images once, in an order of its own.

    Next to each generated image is the real one of its pair, else the next real image of an order of its own. Without
    real images, all are generated. Samples that cannot be read are told once, and others are used instead.

    Args:
        data: the samples.
        contents: which of them are real.
        settings: of the training.
        config: of the network.
        side: patches in a row.
        parts: micro-batches of a step, over all processes.
        stride: micro-batches between two of this process in one step (the number of processes).
        tell: gets a sentence for each sample that cannot be used.

    Raises:
        InputError: there are no generated images, or no real ones for a verdict.
    """

    def __init__(
        self,
        data: DataSet,
        contents: Contents,
        settings: XaigdSettings,
        config: XaigdConfig,
        *,
        side: int,
        parts: int,
        stride: int,
        tell: Callable[[str], None],
    ) -> None:
        missing = [] if contents.generated else ["generated"]
        missing += ["real"] if settings.judges and not contents.real else []
        if missing:
            raise InputError(
                f"The data have no usable {' and no '.join(missing)} images: choose data that say which images are "
                "generated, such as folder:FOLDER with the folders 0_real and 1_fake in it."
            )
        self.data, self.contents, self.settings, self.config, self.side = data, contents, settings, config, side
        self.parts, self.stride = parts, stride
        self.unusable: set[int] = set()
        """Numbers of the samples that could not be used."""
        self._tell = tell
        self._ahead: dict[Draw, Future[XaigdBatch]] = {}
        self._pool = ThreadPoolExecutor(1)

    def batch(self, part: Draw) -> XaigdBatch:
        """The batch of a draw; the next one is prepared meanwhile."""
        ready = self._ahead.pop(part, None)
        batch = self._batch(part) if ready is None else ready.result()
        later = part.part + self.stride
        following = Draw(part.step, later) if later < self.parts else Draw(part.step + 1, part.part % self.stride)
        self._ahead = {following: self._pool.submit(self._batch, following)}
        return batch

    def close(self) -> None:
        """Stop preparing batches."""
        self._pool.shutdown(cancel_futures=True)

    def lessons(self, part: Draw) -> list[Lesson]:
        """The images of a batch: each generated one, and next to it a real one, with the same compression."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, 3, *part.key])
        each = 2 if self.contents.real else 1
        count = settings.batch // each
        first = (part.step * self.parts + part.part) * count
        lessons: list[Lesson] = []
        for place in range(first, first + count):
            pair = self._pair(place)
            if settings.quality:
                quality = int(rng.integers(settings.quality[0], settings.quality[1] + 1))
                pair = [lesson._replace(image=compressed(lesson.image, quality)) for lesson in pair]
            lessons += pair
        return lessons

    def _batch(self, part: Draw) -> XaigdBatch:
        rng = np.random.default_rng([self.settings.seed, 4, *part.key])
        return collate(self.lessons(part), self.config, self.side, self.settings.alignment.kind, rng)

    def _pair(self, place: int) -> list[Lesson]:
        contents = self.contents
        chosen, lesson = self._next(contents.generated, place, _GENERATED)
        for row in contents.partners[chosen]:
            if (own := self._read(row)) is not None:
                return [lesson, own]
        if not contents.real:
            return [lesson]
        return [lesson, self._next(contents.real, place, _REAL)[1]]

    def _next(self, rows: Sequence[int], place: int, kind: int) -> tuple[int, Lesson]:
        """The usable sample at a place of the endless sequence of epochs, and its index in ``rows``."""
        epoch, at = divmod(place, len(rows))
        order = np.random.default_rng([self.settings.seed, kind, epoch]).permutation(len(rows))
        for index in np.roll(order, -at).tolist():
            if (lesson := self._read(rows[index])) is not None:
                return index, lesson
        raise InputError("No sample of the data can be used for training: see the messages above.")

    def _read(self, row: int) -> Lesson | None:
        if row in self.unusable:
            return None
        try:
            return lesson_of(self.data.load(row))
        except InputError as error:
            self.unusable.add(row)
            self._tell(str(error))
            return None
