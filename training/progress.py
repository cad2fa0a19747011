"""Progress reports of a training: JSON lines, a progress bar or plain lines, loss curves, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import Tensor

from refiner.training.curves import draw_curves


class Means:
    """Sums of named values between two reports. A value that is missing in a micro-batch counts as 0."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Tensor]] = []

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add the values of one micro-batch. They stay on their device for now."""
        self.rows.append(figures)

    def take(self) -> tuple[dict[str, float], int]:
        """Return the sums and the number of micro-batches, and reset both."""
        sums: dict[str, float] = {}
        for figures in self.rows:
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        count, self.rows = len(self.rows), []
        return sums, count


def mean_of(taken: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """The means over the results of ``Means.take`` of several processes."""
    count = max(1, sum(number for _, number in taken))
    names = dict.fromkeys(name for sums, _ in taken for name in sums)
    return {name: sum(sums.get(name, 0.0) for sums, _ in taken) / count for name in names}


class Progress:
    """Progress reports of one stage: a bar or lines on the console, ``log.jsonl``, ``curves.png``, TensorBoard.

    Args:
        folder: folder of the run; made if missing.
        name: name of the stage.
        start: step at which the run starts or resumes.
        total: number of steps of the stage.
        console: shows a bar if it is a terminal, else plain lines. None: standard output.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int, console: Console | None = None) -> None:
        self.folder, self.name, self.start, self.total = folder, name, start, total
        self.console = console or Console(highlight=False)
        self.began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._board = _board(folder / "tensorboard")
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"), console=self.console, transient=True,
            redirect_stdout=False, redirect_stderr=False, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bars.add_task(name, total=total, completed=start, figures="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=step)

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Report the mean values since the last report, the steps per second, and the time left."""
        seconds = time.monotonic() - self.began
        shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._bars.update(self._task, completed=step, figures=shown)
        if not self.console.is_terminal:
            rate = (step - self.start) / seconds if seconds else 0.0
            left = (self.total - step) / rate / 60 if rate else math.inf
            text = f"{self.name} {step}/{self.total}  {rate:.2f} steps/s  {left:.0f} min left  {shown}"
            self.console.print(text, markup=False, soft_wrap=True)
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        line = {"stage": self.name, "step": step, "seconds": round(seconds, 1), **finite}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{self.name}/{name}", value, step)

    def draw(self) -> None:
        """Draw ``curves.png`` again from the log."""
        draw_curves(self.folder / "log.jsonl", self.folder / "curves.png")


def _board(folder: Path) -> Any:
    """A TensorBoard writer; None if the package is not installed."""
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    return None
