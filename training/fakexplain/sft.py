"""Stage 1 of FakeXplain: the model learns to write answers (supervised), through trl's SFTTrainer."""

from __future__ import annotations

from pathlib import Path

from refiner.training.fakexplain.lessons import Lessons
from refiner.training.fakexplain.model import Pupil
from refiner.training.fakexplain.settings import FakexplainSettings
from refiner.training.fakexplain.stages import Report, arguments, run_trainer
from refiner.training.runs import Run

_FIGURES = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "grad_norm": "grad_norm", "learning_rate": "rate"}


def supervise(settings: FakexplainSettings, lessons: Lessons, pupil: Pupil, run: Run, folder: Path) -> None:
    """Train on question and answer, or resume; only the answer's tokens count in the loss."""
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        pupil.model,
        args=SFTConfig(**arguments(settings, settings.sft, run, folder), max_length=None, completion_only_loss=True),
        train_dataset=lessons.supervised(),
        processing_class=pupil.processor,
    )
    run_trainer(trainer, Report(run, folder.name, _FIGURES), folder)
