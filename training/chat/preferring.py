"""Training of a chat model on pairs of a better and a worse answer (DPO, Rafailov et al. 2023) through trl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refiner.training.chat.pupils import Pupil
from refiner.training.chat.running import Report, arguments, run_trainer
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.runs import Run

if TYPE_CHECKING:
    from datasets import Dataset

_FIGURES = {
    "loss": "loss", "rewards/accuracies": "preferred", "rewards/margins": "margin", "grad_norm": "grad_norm",
    "learning_rate": "rate",
}  # fmt: skip


def prefer(
    settings: PupilSettings, stage: StageSettings, beta: float, lessons: Dataset, pupil: Pupil, run: Run, folder: Path
) -> None:
    """Train on pairs of answers, or resume. The model that it is compared with is itself as it was at the start.

    Args:
        settings: say how the model is trained.
        stage: says how long.
        beta: weight of the distance from the model at the start.
        lessons: rows of ``images``, ``prompt``, ``chosen`` and ``rejected``, as trl takes them.
        pupil: the model.
        run: the run.
        folder: of the checkpoints; its name is that of the stage in the log.
    """
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        pupil.model,
        args=DPOConfig(**arguments(settings, stage, run, folder), beta=beta, max_length=None),
        train_dataset=lessons,
        processing_class=pupil.processor,
    )
    run_trainer(trainer, Report(run, folder.name, _FIGURES), folder)
