"""What the training of a chat model would do: its weights, an estimate of their memory, and its first batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from refiner.claims import region_of
from refiner.files import Json
from refiner.training.chat.pupils import Pupil
from refiner.training.chat.settings import StageSettings
from refiner.training.first_batch import Shown, write_first_batch
from refiner.types import Claim, Size


class Asked(NamedTuple):
    """An image, what the model is asked about it, and the right answer."""

    name: str
    image: Image.Image
    question: str
    answer: str
    flaws: tuple[Claim, ...]
    """Boxes are in pixels of ``image``."""


def describe(
    pupil: Pupil, stage: StageSettings, batch: Sequence[Asked], *, rows: int, images: int, folder: Path
) -> Json:
    """Describe the training of a stage and write its first batch to ``folder``; no weight is trained.

    Args:
        pupil: from ``load_pupil(..., weights=False)``.
        stage: its settings.
        batch: images of the first step, one or more.
        rows: images and turns of one epoch.
        images: those of a step.
        folder: where to write.

    Returns:
        ``steps``, ``images_per_step``, ``parameters`` (all, trained), ``memory_gib`` of weights, gradients and
        optimiser on one device (without activations and sampled answers), ``tokens`` of the longest question and
        answer in the first batch without those of the image, and the written ``files``.
    """
    weights = list(pupil.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    memory = {"weights": size, "gradients": 4 * trained, "optimiser": 8 * trained}
    return {
        "steps": stage.most_steps or math.ceil(stage.epochs * rows / images),
        "images_per_step": images,
        "parameters": {"all": sum(weight.numel() for weight in weights), "trained": trained},
        "memory_gib": {name: round(value / 2**30, 2) for name, value in memory.items()},
        "tokens": max(len(pupil.processor.tokenizer.encode(asked.question + asked.answer)) for asked in batch),
        "files": write_first_batch(list(map(_shown, batch)), folder),
    }


def _shown(asked: Asked) -> Shown:
    size = Size(asked.image.height, asked.image.width)
    regions = tuple(region_of(claim, None, size) for claim in asked.flaws)
    return Shown(asked.name, asked.image, asked.answer, regions)
