"""What a training would do: its weights, an estimate of their memory, and its first batch as images."""

from __future__ import annotations

from refiner.data.samples import DataSet
from refiner.detectors.anomreason.notes import Note
from refiner.files import Json
from refiner.training.anomreason.lessons import Lesson, lessons_of, note_of, row_of, turns
from refiner.training.anomreason.settings import AnomreasonSettings
from refiner.training.chat.dry_run import Asked, describe
from refiner.training.chat.pupils import load_pupil
from refiner.training.runs import Run
from refiner.types import Size


def dry_run(settings: AnomreasonSettings, data: DataSet, run: Run) -> Json:
    """Describe a training and write its first batch to ``dry-run/``; no weight is trained.

    The batch shows the lists of anomalies, which are the longest answers.

    Returns:
        ``samples``, and what ``refiner.training.chat.dry_run.describe`` returns.
    """
    pupil = load_pupil(settings, run, weights=False)
    note = note_of(settings, pupil.kind)
    lessons = lessons_of(data, note, run.tell)
    images = settings.sft.batch * settings.sft.accumulate * run.processes.count
    batch = [_asked(lessons[place], note) for place in range(min(images, len(lessons)))]
    rows = len(lessons) * turns(note, settings.variants)
    found = describe(pupil, settings.sft, batch, rows=rows, images=images, folder=run.folder / "dry-run")
    return {"samples": len(data.names), **found}


def _asked(lesson: Lesson, note: Note) -> Asked:
    row = row_of(lesson, note, turns(note, 1) - 1)
    question = "".join(part["content"] for part in row["prompt"])
    size = Size(lesson.image.height, lesson.image.width)
    flaws = tuple(anomaly.claim(size) for anomaly in lesson.anomalies)
    return Asked(lesson.name, lesson.image, question, row["completion"][0]["content"], flaws)
