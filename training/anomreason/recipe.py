"""Train AnomReasonor (papers/anomreason.md): a chat model learns to list the semantic anomalies of images.

Without ``--data`` the recipe trains the bundled adapter, which learns from drawn images. It also learns the answers of
all agents of AnomAgent there (``exchanges.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from refiner.data.samples import DataSet
from refiner.detectors.anomreason.notes import NOTE
from refiner.files import Json
from refiner.hub import locate
from refiner.training.anomreason.settings import AnomreasonSettings, paper, released
from refiner.training.chat import require_trl
from refiner.training.chat.settings import StageSettings
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run

_IMAGES = 40_000  # images that the bundled model learns from


def micro() -> AnomreasonSettings:
    """Settings of the bundled adapter. The training takes about an hour on one core."""
    from refiner.training.anomreason.words import tokens

    return AnomreasonSettings(
        base="micro:vlm",
        rank=64,
        alpha=128,
        vision=False,
        boxes=True,
        tokens=tokens(),
        bf16=False,
        sft=StageSettings(
            most_steps=2500, batch=16, accumulate=1, learning_rate=1e-3, warmup=100, report_every=50, save_every=250
        ),
    )


def _check(settings: AnomreasonSettings) -> None:
    """Refuse what cannot be trained, before anything is downloaded or written."""
    require_trl("Training AnomReasonor")
    locate(settings.base, "detector")


def train_on(settings: AnomreasonSettings, data: DataSet | None, run: Run, out: Path) -> None:
    """Train on a data set, or resume, and write the adapter to ``out``, and the whole model to ``merged`` in the run.

    Without a data set, the model learns from drawn images.

    Raises:
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
        OutputError: the model cannot be written.
    """
    from refiner.training.anomreason.drawn import drawn_rows
    from refiner.training.anomreason.lessons import lessons_of, note_of, supervised
    from refiner.training.chat.pupils import load_pupil, save_merged, save_pupil
    from refiner.training.chat.running import without_foreign_warnings
    from refiner.training.chat.supervised import supervise

    with without_foreign_warnings():
        pupil = load_pupil(settings, run)
        note = note_of(settings, pupil.kind)
        if data is None:
            rows = drawn_rows(_IMAGES, note, settings.variants, run.tell)
            supervise(settings, settings.sft, rows, pupil, run, run.folder / "sft")
        else:
            lessons = lessons_of(data, note, run.tell)
            rows = supervised(lessons, note, settings.variants)
            supervise(settings, settings.sft, rows, pupil, run, run.folder / "sft")
            if lessons.unusable:
                run.tell(f"{len(lessons.unusable)} of {len(lessons)} samples could not be used.")
        if run.processes.main:
            dtype = torch.float16 if settings.tokens else torch.bfloat16 if settings.bf16 else torch.float32
            boxes = None if note.boxes is None else {"scale": note.boxes.scale, "order": note.boxes.order}
            notes = {NOTE: {"format": note.form, "boxes": boxes, "max_side": note.max_side}}
            save_pupil(pupil, out, dtype, notes)
            if settings.rank and settings.merged:
                save_merged(pupil, run.folder / "merged", dtype, notes)
        run.processes.wait()


def _dry_run(settings: AnomreasonSettings, data: DataSet, run: Run) -> Json:
    from refiner.training.anomreason.dry_run import dry_run
    from refiner.training.chat.running import without_foreign_warnings

    with without_foreign_warnings():
        return dry_run(settings, data, run)


def _measure(folder: Path, run: Run, count: int) -> Mapping[str, Any]:
    from refiner.training.anomreason.eval import measure

    return measure(folder, run, count)


RECIPE = Recipe(
    name="anomreason",
    micro=micro,
    train=train_on,
    configs={"paper": paper, "released": released, "micro": micro},
    check=_check,
    dry_run=_dry_run,
    folder="anomreason",
    card=Card(
        name="anomreason-micro 1",
        family="anomreason",
        data=lambda recipe: (
            f"micro world: {_IMAGES} drawn images, 60 % with injected flaws, half decoder-like; base {recipe.base}; "
            "AnomReasonor's answers and the exchanges of AnomAgent"
        ),
    ),
    measure=_measure,
    measured=100,
)
