"""What a training would do: its weights, an estimate of their memory, and its first batch as images."""

from __future__ import annotations

from refiner.data.samples import DataSet
from refiner.files import Json
from refiner.training.chat.dry_run import Asked, describe
from refiner.training.chat.pupils import load_pupil
from refiner.training.fakexplain.lessons import Lesson, lessons_of, style_of
from refiner.training.fakexplain.settings import FakexplainSettings
from refiner.training.runs import Run
from refiner.types import Size


def dry_run(settings: FakexplainSettings, data: DataSet, run: Run) -> Json:
    """Describe the first stage of a training and write its first batch to ``dry-run/``; no weight is trained.

    Returns:
        ``samples``, and what ``refiner.training.chat.dry_run.describe`` returns.
    """
    pupil = load_pupil(settings, run, weights=False)
    lessons = lessons_of(data, style_of(settings, pupil.kind), run.tell)
    stage = settings.sft if settings.stage != "grpo" else settings.grpo
    answers = 1 if settings.stage != "grpo" else settings.grpo.answers
    images = max(1, stage.batch * stage.accumulate * run.processes.count // answers)
    batch = [_asked(lessons[place]) for place in range(min(images, len(lessons)))]
    folder = run.folder / "dry-run"
    found = describe(pupil, stage, batch, rows=len(lessons), images=images, folder=folder)
    return {"samples": len(data.names), **found}


def _asked(lesson: Lesson) -> Asked:
    size = Size(lesson.image.height, lesson.image.width)
    return Asked(lesson.name, lesson.image, lesson.question, lesson.answer, tuple(lesson.truth.claims(size)))
