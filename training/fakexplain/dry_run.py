"""What a training would do: its weights, an estimate of their memory, and its first batch as images."""

from __future__ import annotations

import math

from refiner.claims import region_of
from refiner.data.samples import DataSet
from refiner.files import Json
from refiner.training.chat.pupils import load_pupil
from refiner.training.fakexplain.lessons import Lesson, lessons_of, style_of
from refiner.training.fakexplain.settings import FakexplainSettings
from refiner.training.first_batch import Shown, write_first_batch
from refiner.training.runs import Run
from refiner.types import Size


def dry_run(settings: FakexplainSettings, data: DataSet, run: Run) -> Json:
    """Describe the first stage of a training and write its first batch to ``dry-run/``; no weight is trained.

    Returns:
        ``samples``, ``steps``, ``images_per_step``, ``parameters`` (all, trained), ``memory_gib`` of weights, gradients
        and optimiser on one device (without activations and sampled answers), ``tokens`` of the longest question and
        answer in the first batch without those of the image, and the written ``files``.
    """
    pupil = load_pupil(settings, run, weights=False)
    lessons = lessons_of(data, style_of(settings, pupil.kind), run.tell)
    first = settings.sft if settings.stage != "grpo" else settings.grpo
    answers = 1 if settings.stage != "grpo" else settings.grpo.answers
    images = max(1, first.batch * first.accumulate * run.processes.count // answers)
    batch = [lessons[place] for place in range(min(images, len(lessons)))]
    texts = [lesson.question + lesson.answer for lesson in batch]
    weights = list(pupil.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    memory = {"weights": size, "gradients": 4 * trained, "optimiser": 8 * trained}
    return {
        "samples": len(data.names),
        "steps": first.most_steps or math.ceil(first.epochs * len(data.names) / images),
        "images_per_step": images,
        "parameters": {"all": sum(weight.numel() for weight in weights), "trained": trained},
        "memory_gib": {name: round(value / 2**30, 2) for name, value in memory.items()},
        "tokens": max(len(pupil.processor.tokenizer.encode(text)) for text in texts),
        "files": write_first_batch([_shown(lesson) for lesson in batch], run.folder / "dry-run"),
    }


def _shown(lesson: Lesson) -> Shown:
    size = Size(lesson.image.height, lesson.image.width)
    regions = tuple(region_of(claim, None, size) for claim in lesson.truth.claims(size))
    return Shown(lesson.name, lesson.image, lesson.answer, regions)
