"""Supervised training of a chat model through trl's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refiner.training.chat.pupils import Pupil
from refiner.training.chat.running import Report, arguments, run_trainer
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.runs import Run

if TYPE_CHECKING:
    from datasets import Dataset

_FIGURES = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "grad_norm": "grad_norm", "learning_rate": "rate"}


def supervise(
    settings: PupilSettings, stage: StageSettings, lessons: Dataset, pupil: Pupil, run: Run, folder: Path
) -> None:
    """Train on lessons, or resume; only the tokens of the answers count in the loss.

    Args:
        settings: say how the model is trained.
        stage: says how long.
        lessons: rows of ``images``, ``prompt`` and ``completion``, as trl takes them.
        pupil: the model.
        run: the run.
        folder: of the checkpoints; its name is that of the stage in the log.
    """
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        pupil.model,
        args=SFTConfig(**arguments(settings, stage, run, folder), max_length=None, completion_only_loss=True),
        train_dataset=lessons,
        processing_class=pupil.processor,
    )
    run_trainer(trainer, Report(run, folder.name, _FIGURES), folder)
