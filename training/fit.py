"""The training loop of all recipes, on one process or several.

It has AdamW, warm-up and a cosine schedule, a moving average of the weights, checkpoints and resume.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from refiner.errors import ConfigError, WeightsError
from refiner.training.averaging import Ema, changing
from refiner.training.checkpoints import load_checkpoint, save_checkpoint
from refiner.training.processes import Processes, placed, whole
from refiner.training.progress import Means, Progress, mean_of
from refiner.training.runs import Run, check_dtype
from refiner.training.settings import LoopSettings, check_schedule, within

B = TypeVar("B")
_STEPS, _PARTS = 1_000_003, 7_368_787  # primes that keep the seeds of runs, steps and micro-batches apart


class Draw(NamedTuple):
    """Identifies a micro-batch. The batch depends on nothing else, so runs resume and processes can share a step."""

    step: int
    part: int = 0  # number of the micro-batch within the step, counted over all processes and accumulated gradients

    @property
    def key(self) -> tuple[int, ...]:
        """Integers for a NumPy seed. Part 0 has the same key as a step with only one part."""
        return (self.step, self.part) if self.part else (self.step,)

    def seed(self, seed: int) -> int:
        """A seed for a torch generator, from the seed of the run."""
        return seed * _STEPS + self.step + self.part * _PARTS


@dataclass(frozen=True, kw_only=True)
class FitSettings(LoopSettings):
    """Settings of the optimisation, independent of the loss.

    Raises:
        ConfigError: a value is out of its range.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    seed: int = 0
    clip: float = 1.0  # largest norm of the gradient
    dtype: str = "float32"  # The autocast dtype. Weights stay float32.
    schedule: str = "cosine"  # fall of the learning rate after the warm-up: cosine or linear
    horizon: int = 0  # steps until the learning rate has fallen. 0: all steps.
    average: bool = True  # whether the module ends with the moving average; else it ends with the last weights

    def __post_init__(self) -> None:
        within(self, steps=(0, None), warmup=(0, None), weight_decay=(0, None), ema=(0, 1), seed=(0, None))
        within(self, accumulate=(1, None), report_every=(1, None), save_every=(1, None))
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"The setting {name} must be above 0, got {getattr(self, name)!r}: change it.")
        within(self, horizon=(0, None))
        check_dtype(self.dtype)
        check_schedule(self.schedule)


def fit_settings(own: LoopSettings, **values: Any) -> FitSettings:
    """Settings of the optimisation: the fields of the same name in a recipe's settings, and ``values``.

    ``bf16`` in a recipe's settings means the dtype bfloat16.
    """
    names = {field.name for field in dataclasses.fields(FitSettings)} & {
        field.name for field in dataclasses.fields(own)
    }
    shared = {name: getattr(own, name) for name in names}
    if getattr(own, "bf16", False):
        shared["dtype"] = "bfloat16"
    return FitSettings(**{**shared, **values})


def summed(losses: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The sum of losses, and the losses by name to log."""
    return torch.stack(list(losses.values())).sum(), losses


def cosine_schedule(warmup: int, total: int, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor by step: linear from 0 to 1 over ``warmup`` steps, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def linear_schedule(warmup: int, total: int) -> Callable[[int], float]:
    """Learning-rate factor by step: linear from 0 to 1 over ``warmup`` steps, then linear down to 0 at ``total``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return factor


class _Step(nn.Module):
    """Module and loss in one forward call, as DDP and FSDP need it."""

    def __init__(self, module: nn.Module, loss: Callable[[Any], tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns the loss of a batch, and values to log."""
        return self.loss(batch)


def fit(
    module: nn.Module,
    draw: Callable[[Draw], B],
    loss: Callable[[B], tuple[Tensor, Mapping[str, Tensor]]],
    settings: FitSettings,
    run: Run,
    name: str,
    parameters: Iterable[nn.Parameter] | None = None,
) -> Ema:
    """Train ``module`` in place, or resume from the stage's checkpoint.

    The module ends with the moving average of its weights, unless ``settings.average`` is False.

    Args:
        module: the module to train. It ends on the run's device.
        draw: makes a micro-batch from only its ``Draw``, so that a resumed run equals an uninterrupted one. Torch's
            generator is seeded before each call. Tensors in tuples, lists and mappings are moved to the device.
        loss: maps a batch to the loss (float scalar, mean over the batch) and to values to log. Runs under autocast.
        settings: see ``FitSettings``.
        run: where to write and on which device to compute. The checkpoint is ``NAME.pt`` in its folder.
        name: name of the stage.
        parameters: the parameters of the module to optimise. None: all.

    Returns:
        The moving average of the weights.

    Raises:
        WeightsError: the checkpoint is damaged, or belongs to another training.
    """
    if run.dtype is not None:
        settings = dataclasses.replace(settings, dtype=run.dtype)
    chosen = {id(parameter) for parameter in parameters or module.parameters()}
    names = {key for key, parameter in module.named_parameters() if id(parameter) in chosen}
    stage = _Stage(module, names, loss, settings, run, name)
    start, steps = stage.start, settings.steps
    with Progress(run.folder, name, start, steps, run.console) if run.processes.main else nullcontext() as progress:
        stage.train(draw, progress)
    stage.close()
    return stage.ema


class _Stage:
    """One stage of a run: its state, and how it is saved to and loaded from the checkpoint."""

    def __init__(
        self,
        module: nn.Module,
        names: set[str],
        loss: Callable[[Any], tuple[Tensor, Mapping[str, Tensor]]],
        settings: FitSettings,
        run: Run,
        name: str,
    ) -> None:
        self.module, self.settings, self.run, self.name = module, settings, run, name
        self.processes: Processes = run.processes
        self.checkpoint = run.folder / f"{name}.pt"
        module.to(self.processes.device)
        step = _Step(module, loss)
        if self.processes.sharded:
            self.processes.shard(step)
        self.parameters = [parameter for key, parameter in module.named_parameters() if key in names]
        optimiser = torch.optim.AdamW(
            self.parameters, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.wrapped = step
        self.step, self.optimiser = self.processes.prepare(step, optimiser)
        self.ema, self.start = Ema(changing(module), settings.ema), 0
        self._load()

    def train(self, draw: Callable[[Draw], Any], progress: Progress | None) -> None:
        """Run all remaining steps."""
        settings, means = self.settings, Means()
        schedule = cosine_schedule if settings.schedule == "cosine" else linear_schedule
        factor = schedule(settings.warmup, settings.horizon or settings.steps)
        self.module.train()
        for step in range(self.start, settings.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = settings.learning_rate * factor(step)
            for turn in range(settings.accumulate):
                self._micro_batch(draw, step, turn, means)
            self.processes.clip(self.module.parameters(), settings.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.ema.update(changing(self.module))
            done = step + 1
            if done % settings.report_every == 0 or done == settings.steps:
                figures = mean_of(self.processes.gathered(means.take()))
                if progress:
                    progress.report(done, figures)
            if done % settings.save_every == 0 or done == settings.steps:
                self._save(done)
                if progress:
                    progress.draw()
            if progress:
                progress.advance(done)

    def _micro_batch(self, draw: Callable[[Draw], Any], step: int, turn: int, means: Means) -> None:
        settings, processes = self.settings, self.processes
        part = Draw(step, turn * processes.count + processes.index)
        torch.manual_seed(part.seed(settings.seed))
        batch = send_to_device(draw(part), processes.device)
        with processes.accumulating(self.step, last=turn == settings.accumulate - 1):
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
                loss, figures = self.step(batch)
            processes.backward(loss / settings.accumulate)
        means.add({name: value.detach() for name, value in {"loss": loss, **figures}.items()})

    def close(self) -> None:
        """Leave unsharded weights in the module: the average if ``settings.average``, else the last weights."""
        if self.settings.average:
            self.module.load_state_dict({**self.module.state_dict(), **self.ema.shadow})
        self.ema.shadow = whole(self.ema.shadow)
        if self.processes.sharded:
            self.processes.unshard(self.wrapped)
        self.module.eval()

    def _save(self, done: int) -> None:
        state = {"module": changing(self.module), "optimiser": self.optimiser.state_dict()}
        state = whole({**state, "ema": self.ema.state_dict(), "step": done})
        if self.processes.main:
            save_checkpoint(self.checkpoint, state)
        self.processes.save_engine(self.checkpoint.with_suffix(".deepspeed"))
        self.processes.wait()

    def _load(self) -> None:
        state = load_checkpoint(self.checkpoint)
        if state is None:
            return
        if not {"module", "optimiser", "ema", "step"} <= state.keys():
            raise WeightsError(f"The checkpoint {str(self.checkpoint)!r} belongs to another training: delete it.")
        now = self.module.state_dict()
        if state["module"].keys() != changing(self.module).keys():
            raise WeightsError(
                f"The checkpoint {str(self.checkpoint)!r} is of a training of other weights: delete it to start anew."
            )
        loaded = {key: placed(tensor, now[key]) for key, tensor in state["module"].items()}
        self.module.load_state_dict({**now, **loaded})
        if self.processes.deepspeed:
            self.processes.load_engine(self.checkpoint.with_suffix(".deepspeed"))
        else:
            rows = state["optimiser"]["state"]
            for number, row in rows.items():
                rows[number] = {key: placed(value, self.parameters[number]) for key, value in row.items()}
            self.optimiser.load_state_dict(state["optimiser"])
        shadow = {key: placed(tensor, now[key]) for key, tensor in state["ema"]["shadow"].items()}
        self.ema.load_state_dict({**state["ema"], "shadow": shadow})
        self.start = state["step"]
