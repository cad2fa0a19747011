"""What a training would do, branch by branch: its weights, an estimate of their memory, and its first batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from refiner.data.samples import DataSet
from refiner.detectors.vlm.questions import box_format
from refiner.files import Json
from refiner.training.aligngemini.expert import load_trainee
from refiner.training.aligngemini.lessons import Lesson, Style, lessons_of
from refiner.training.aligngemini.pairs import DataPairs, place_of, views
from refiner.training.aligngemini.settings import AlignGeminiSettings, PixelSettings, SemanticSettings
from refiner.training.chat.dry_run import Asked, describe
from refiner.training.chat.pupils import load_pupil
from refiner.training.first_batch import Shown, write_first_batch
from refiner.training.runs import Run
from refiner.types import Size


def dry_run(settings: AlignGeminiSettings, data: DataSet, held: Sequence[int], run: Run) -> Json:
    """Describe a training and write its first batches to ``dry-run/BRANCH/``; no weight is trained.

    Args:
        settings: name the branches.
        data: the samples.
        held: rows that the training leaves out.
        run: where to write.

    Returns:
        ``branches``: by name, ``samples`` (of the pixel branch: pairs), and what
        ``refiner.training.chat.dry_run.describe`` returns; the pixel branch has no ``tokens``.
    """
    found = {}
    if "semantic" in settings.trains:
        rows = sorted(set(range(len(data.names))) - set(held))
        found["semantic"] = _semantic(settings.semantic, data, rows, run)
    if "pixel" in settings.trains:
        found["pixel"] = _pixel(settings.pixel, DataPairs(data, run.tell, held), run)
    return {"branches": found}


def _semantic(settings: SemanticSettings, data: DataSet, rows: Sequence[int], run: Run) -> Json:
    """Of the first method, if there are both."""
    pupil = load_pupil(settings, run, weights=False)
    lessons = lessons_of(data, Style(box_format(pupil.kind), settings.max_side, settings.blur), run.tell, rows)
    stage = settings.dpo if settings.method == "dpo" else settings.sft
    images = stage.batch * stage.accumulate * run.processes.count
    batch = [_asked(lessons[place]) for place in range(min(images, len(lessons)))]
    folder = run.folder / "dry-run" / "semantic"
    found = describe(pupil, stage, batch, rows=len(lessons), images=images, folder=folder)
    return {"samples": len(rows), **found}


def _asked(lesson: Lesson) -> Asked:
    size = Size(lesson.image.height, lesson.image.width)
    return Asked(lesson.name, lesson.image, lesson.question, lesson.answer, tuple(lesson.truth.claims(size)))


def _pixel(settings: PixelSettings, pairs: DataPairs, run: Run) -> Json:
    weights = list(load_trainee(settings, weights=False).parameters())
    count = sum(weight.numel() for weight in weights)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    memory = {"weights": 4 * count, "gradients": 4 * trained, "optimiser": 8 * trained}
    memory |= {} if settings.rank else {"moving average": 4 * trained}
    images = settings.batch * settings.accumulate * run.processes.count
    return {
        "samples": len(pairs),
        "steps": settings.most_steps or math.ceil(settings.epochs * len(pairs) / images),
        "images_per_step": images,
        "parameters": {"all": count, "trained": trained},
        "memory_gib": {name: round(value / 2**30, 2) for name, value in memory.items()},
        "files": write_first_batch(_crops(settings, pairs), run.folder / "dry-run" / "pixel"),
    }


def _crops(settings: PixelSettings, pairs: DataPairs) -> list[Shown]:
    """The first crops of the first pairs, each of the real image and of its reconstruction."""
    shown = []
    for number in range(min(settings.batch, len(pairs))):
        place = place_of(number, len(pairs), settings.seed)
        for kind, seen in zip(
            ("real", "reconstruction"), views(pairs[place], settings, [settings.seed, number]), strict=True
        ):
            shown.append(Shown(f"pair {place}", Image.fromarray(seen[0]), kind, ()))
    return shown
