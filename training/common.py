"""What every recipe shares: seeds, schedule, moving average, checkpoints, progress.

A run that is stopped and resumed gives the same weights as one that is not: everything that the next step depends on,
states of the random generators included, is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.errors import WeightsError


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def cosine_schedule(warmup: int, total: int, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor by step: linear from 0 over ``warmup`` steps, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


class Ema:
    """Exponential moving average of a module's weights, with the usual slow start: min(decay, (1+n)/(10+n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present weights."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor, 1 - decay)
            else:
                self.shadow[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.shadow = dict(state["shadow"])


def random_state() -> dict[str, Any]:
    """State of torch's CPU generator (recipes draw from it, or from generators seeded by the step)."""
    return {"torch": torch.get_rng_state()}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set what ``random_state`` gave."""
    torch.set_rng_state(state["torch"])


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({**state, "random": random_state()}, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint and restore the random generators; None where there is none.

    Raises:
        WeightsError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(f"Expected a whole checkpoint, got {str(path)!r} ({error!r}): delete it.") from error
    restore_random_state(state.pop("random"))
    return state


class Progress:
    """One line to the terminal and one JSON line to ``log.jsonl`` at each report.

    Args:
        folder: of the run; made if missing.
        name: of the stage.
        start: step the run starts or resumes at.
        total: steps of the stage.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int) -> None:
        self.folder, self.name, self.start, self.total = folder, name, start, total
        self.began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell the mean figures since the last report, steps per second, and the time left."""
        seconds = time.monotonic() - self.began
        rate = (step - self.start) / seconds if seconds else 0.0
        left = (self.total - step) / rate / 60 if rate else math.inf
        shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"{self.name} {step}/{self.total}  {rate:.2f} steps/s  {left:.0f} min left  {shown}", flush=True)
        line = {"stage": self.name, "step": step, "seconds": round(seconds, 1), **figures}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Means:
    """Running means of named figures between two reports."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def take(self) -> dict[str, float]:
        """The means; counting starts anew."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


@contextlib.contextmanager
def averaged_weights(module: nn.Module, ema: Ema) -> Any:
    """Within the block, the module holds the moving average."""
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(ema.shadow)
    try:
        yield
    finally:
        module.load_state_dict(own)
