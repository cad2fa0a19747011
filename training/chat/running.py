"""Run trl's trainers: their arguments, reports as in every training of refiner, and resuming."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.progress import Progress
from refiner.training.runs import Run

_OTHERS_WARNINGS = (r".(is_)?gradient_checkpointing(_kwargs)?. is deprecated",)
"""Warnings that trl and peft cause in newer versions of transformers, about which a user can do nothing."""
_STATE = ("trainer_state.json", "optimizer.pt")
"""Files without which a checkpoint is incomplete."""


class Report(TrainerCallback):
    """Shows the progress of trl's trainers, and writes log and curves, as ``fit`` does.

    Args:
        run: the run.
        stage: name of the stage.
        names: key of a figure in trl's log -> its name in ours; others are left out.
    """

    def __init__(self, run: Run, stage: str, names: Mapping[str, str]) -> None:
        self.run, self.stage, self.names = run, stage, names
        self.progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress = Progress(self.run.folder, self.stage, state.global_step, state.max_steps, self.run.console)
            self.progress.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress.advance(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        figures = {
            name: float(value) for key, name in self.names.items() if (value := (logs or {}).get(key)) is not None
        }
        if self.progress is not None and figures:
            self.progress.report(state.global_step, figures)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress.draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress.draw()

    def close(self) -> None:
        """End the progress bar."""
        if self.progress is not None:
            self.progress.__exit__(None, None, None)


def arguments(settings: PupilSettings, stage: StageSettings, run: Run, folder: Path) -> dict[str, Any]:
    """The arguments that trl's configs share."""
    bf16 = settings.bf16 if run.dtype is None else run.dtype == "bfloat16"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": stage.batch,
        "gradient_accumulation_steps": stage.accumulate,
        "num_train_epochs": stage.epochs,
        "max_steps": stage.most_steps or -1,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": stage.warmup,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": 1.0,
        "logging_steps": stage.report_every,
        "save_steps": stage.save_every,
        "save_total_limit": 2,
        "bf16": bf16,
        "use_cpu": run.processes.device.type == "cpu",
        "gradient_checkpointing": settings.checkpointing,
        "seed": settings.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def run_trainer(trainer: Any, report: Report, folder: Path) -> None:
    """Run a trainer of trl to its end, from the last checkpoint in ``folder`` if there is one."""
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    trainer.add_callback(report)
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    finally:
        report.close()


@contextmanager
def without_foreign_warnings() -> Iterator[None]:
    """Hide warnings of trl and peft that do not concern the user."""
    with warnings.catch_warnings():
        for message in _OTHERS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint of a stage; None if there is none."""
    found = [
        path for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and all((path / name).exists() for name in _STATE)
    ]  # fmt: skip
    return str(max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if found else None
