"""The one training loop: AdamW, warm-up and cosine, moving average, checkpoints, resume, on one process or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from refiner.errors import ConfigError, WeightsError
from refiner.training.averaging import Ema
from refiner.training.checkpoints import load_checkpoint, save_checkpoint
from refiner.training.processes import Processes, placed, whole
from refiner.training.progress import Means, Progress, mean_of
from refiner.training.runs import DTYPES, Run
from refiner.training.schedule import cosine_schedule
from refiner.training.settings import LoopSettings, within

B = TypeVar("B")
_STEPS, _PARTS = 1_000_003, 7_368_787
"""Primes that keep the seeds of runs, steps and micro-batches apart."""


class Draw(NamedTuple):
    """What a micro-batch is drawn from, and nothing else: so runs resume, and processes can share a step."""

    step: int
    part: int = 0
    """Which micro-batch of the step, over all processes and accumulated gradients."""

    @property
    def key(self) -> tuple[int, ...]:
        """Words for a seed of NumPy's; the first part's are those of a step that has no other."""
        return (self.step, self.part) if self.part else (self.step,)

    def seed(self, seed: int) -> int:
        """A seed for a generator of torch's."""
        return seed * _STEPS + self.step + self.part * _PARTS


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to optimise, whatever the loss.

    Raises:
        ConfigError: a value out of its range.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    seed: int = 0
    clip: float = 1.0
    """Largest norm of the gradient."""
    accumulate: int = 1
    """Micro-batches of each process in a step; the gradient is their mean."""
    dtype: str = "float32"
    """Of autocast; weights stay float32."""
    report_every: int = 100
    save_every: int = 500
    average: bool = True
    """Leave the moving average in the module at the end, and not the last weights."""

    def __post_init__(self) -> None:
        within(self, steps=(0, None), warmup=(0, None), weight_decay=(0, None), ema=(0, 1), seed=(0, None))
        within(self, accumulate=(1, None), report_every=(1, None), save_every=(1, None))
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"The setting {name} must be above 0, got {getattr(self, name)!r}: change it.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"Expected a dtype of {', '.join(DTYPES)}, got {self.dtype!r}: choose one of them.")


def fit_settings(own: LoopSettings, **values: Any) -> FitSettings:
    """How a recipe optimises: what its settings say of the loop, and ``values``."""
    return FitSettings(accumulate=own.accumulate, report_every=own.report_every, save_every=own.save_every, **values)


class _Step(nn.Module):
    """Module and loss as one call, which DDP and FSDP need."""

    def __init__(self, module: nn.Module, loss: Callable[[Any], tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and figures to log."""
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
    """Train ``module`` in place, or go on from the stage's checkpoint, and leave the moving average in it.

    Args:
        module: what is optimised; it ends on the run's device.
        draw: the batch of a micro-batch, drawn from ``Draw`` alone: then a resumed run equals a straight one. Torch's
            generator is seeded before. Tensors in tuples, lists and mappings are moved to the device.
        loss: from a batch to the loss (float scalar, mean over the batch) and figures to log; under autocast.
        settings: see ``FitSettings``.
        run: where to write, on which device to compute; ``NAME.pt`` in its folder is the checkpoint.
        name: of the stage.
        parameters: what is optimised of the module; None: all.

    Returns:
        The moving average of the weights.

    Raises:
        WeightsError: the checkpoint is damaged, or of another training.
    """
    if run.dtype is not None:
        settings = dataclasses.replace(settings, dtype=run.dtype)
    chosen = {id(parameter) for parameter in parameters or module.parameters()}
    names = {key for key, parameter in module.named_parameters() if id(parameter) in chosen}
    stage = _Stage(module, names, loss, settings, run, name)
    with stage.progress() as progress:
        stage.train(draw, progress)
    stage.close()
    return stage.ema


class _Stage:
    """One stage of a run: its state, and the way to the checkpoint and back."""

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
        self.ema, self.start = Ema(module, settings.ema), 0
        self._load()

    def progress(self) -> AbstractContextManager[Progress | None]:
        """Reports of the main process; None for the others."""
        if not self.processes.main:
            return nullcontext()
        return Progress(self.run.folder, self.name, self.start, self.settings.steps, self.run.console)

    def train(self, draw: Callable[[Draw], Any], progress: Progress | None) -> None:
        """All steps that are left."""
        settings, means = self.settings, Means()
        factor = cosine_schedule(settings.warmup, settings.steps)
        self.module.train()
        for step in range(self.start, settings.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = settings.learning_rate * factor(step)
            for turn in range(settings.accumulate):
                self._micro_batch(draw, step, turn, means)
            self.processes.clip(self.module.parameters(), settings.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.ema.update(self.module)
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
        means.add({"loss": loss.detach(), **figures})

    def close(self) -> None:
        """Leave whole weights in the module: the average where that is asked for."""
        if self.settings.average:
            self.module.load_state_dict(self.ema.shadow)
        self.ema.shadow = whole(self.ema.shadow)
        if self.processes.sharded:
            self.processes.unshard(self.wrapped)
        self.module.eval()

    def _save(self, done: int) -> None:
        state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
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
            raise WeightsError(f"The checkpoint {str(self.checkpoint)!r} is not one of this training: delete it.")
        now = self.module.state_dict()
        self.module.load_state_dict({key: placed(tensor, now[key]) for key, tensor in state["module"].items()})
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
