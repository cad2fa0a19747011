"""Train AnomReasonor (papers/anomreason.md): a chat model learns to list the semantic anomalies of images."""

from __future__ import annotations

from pathlib import Path

import torch

from refiner.data.samples import DataSet
from refiner.detectors.anomreason.notes import NOTE, Note
from refiner.detectors.vlm.questions import box_format
from refiner.hub import locate
from refiner.training.anomreason.settings import AnomreasonSettings, paper, released
from refiner.training.chat import require_trl
from refiner.training.recipes import Recipe
from refiner.training.runs import Run


def _check(settings: AnomreasonSettings) -> None:
    """Refuse what cannot be trained, before anything is downloaded or written."""
    require_trl("Training AnomReasonor")
    locate(settings.base, "detector")


def note_of(settings: AnomreasonSettings, kind: str) -> Note:
    """How a chat model of a type is asked, and answers."""
    return Note(settings.format, box_format(kind) if settings.boxes else None, settings.max_side)


def train_on(settings: AnomreasonSettings, data: DataSet, run: Run, out: Path) -> None:
    """Train on a data set, or resume, and write the adapter to ``out``, and the whole model to ``merged`` in the run.

    Raises:
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
        OutputError: the model cannot be written.
    """
    from refiner.training.anomreason.lessons import lessons_of, supervised
    from refiner.training.chat.pupils import load_pupil, save_merged, save_pupil
    from refiner.training.chat.running import without_foreign_warnings
    from refiner.training.chat.supervised import supervise

    with without_foreign_warnings():
        pupil = load_pupil(settings, run)
        note = note_of(settings, pupil.kind)
        lessons = lessons_of(data, note, run.tell)
        rows = supervised(lessons, note, settings.variants)
        supervise(settings, settings.sft, rows, pupil, run, run.folder / "sft")
        if lessons.unusable:
            run.tell(f"{len(lessons.unusable)} of {len(lessons)} samples could not be used.")
        if run.processes.main:
            dtype = torch.bfloat16 if settings.bf16 else torch.float32
            boxes = None if note.boxes is None else {"scale": note.boxes.scale, "order": note.boxes.order}
            notes = {NOTE: {"format": note.form, "boxes": boxes, "max_side": note.max_side}}
            save_pupil(pupil, out, dtype, notes)
            if settings.rank and settings.merged:
                save_merged(pupil, run.folder / "merged", dtype, notes)
        run.processes.wait()


def _train(settings: AnomreasonSettings, data: DataSet | None, run: Run, out: Path) -> None:
    assert data is not None
    train_on(settings, data, run, out)


RECIPE = Recipe(
    name="anomreason",
    micro=paper,
    train=_train,
    configs={"paper": paper, "released": released},
    check=_check,
)
