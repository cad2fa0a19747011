"""Trainings of chat models that are killed and go on, and their figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refiner.training.chat.running import Report
from refiner.training.curves import read_curves


class KilledError(BaseException):
    """Stands for the end of the process."""


def kill_and_resume(
    monkeypatch: pytest.MonkeyPatch, stop: tuple[str, int], train: Callable[[], None], model: Path
) -> None:
    """Train, stop at a step of a stage before the model is written, and train again."""
    went_on = Report.on_log

    def kill(self: Report, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if (self.stage, state.global_step) == stop:
            raise KilledError
        went_on(self, args, state, control, **rest)

    monkeypatch.setattr(Report, "on_log", kill)
    with pytest.raises(KilledError):
        train()
    assert not model.exists()
    monkeypatch.setattr(Report, "on_log", went_on)
    train()


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run, without the learning rate."""
    return {name: curve for name, curve in read_curves(folder / "log.jsonl").items() if "rate" not in name}


def assert_same_figures(straight: Path, resumed: Path) -> None:
    """Two runs have the same curves."""
    wanted, found = figures(straight), figures(resumed)
    assert wanted.keys() == found.keys()
    for name, curve in wanted.items():
        assert found[name] == [(step, pytest.approx(value, abs=1e-5)) for step, value in curve], name
