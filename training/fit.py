"""The optimisation loop of the small recipes: AdamW, warm-up and cosine, moving average, checkpoints, resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from refiner.training.common import Ema, Means, Progress, cosine_schedule, load_checkpoint, save_checkpoint

LossOfStep = Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to optimise, whatever the loss."""

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    ema: float = 0.999
    seed: int = 0
    clip: float = 1.0  # largest norm of the gradient
    report_every: int = 100
    save_every: int = 500


def fit(module: nn.Module, loss_of_step: LossOfStep, settings: FitSettings, folder: Path, name: str) -> None:
    """Train ``module`` in place and leave the moving average of its weights in it.

    Args:
        module: what is optimised.
        loss_of_step: from the step's number to the loss (float scalar) and figures to log. It must draw its batch from
            that number alone: then a resumed run equals a straight one. Torch's generator is seeded for it.
        settings: see ``FitSettings``.
        folder: of the run; ``NAME.pt`` in it is the checkpoint, from which the run resumes.
        name: of the stage.
    """
    optimiser = torch.optim.AdamW(
        module.parameters(), settings.learning_rate, (0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    factor = cosine_schedule(settings.warmup, settings.steps)
    ema, means, start = Ema(module, settings.ema), Means(), 0
    checkpoint = folder / f"{name}.pt"
    if (state := load_checkpoint(checkpoint)) is not None:
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        start = state["step"]
    progress = Progress(folder, name, start, settings.steps)
    module.train()
    for step in range(start, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * factor(step)
        loss, figures = loss_of_step(step)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(module)
        means.add({"loss": loss.detach(), **figures})
        done = step + 1
        if done % settings.report_every == 0 or done == settings.steps:
            progress.report(done, means.take())
        if done % settings.save_every == 0 or done == settings.steps:
            states = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema.state_dict()}
            save_checkpoint(checkpoint, {**states, "step": done})
    module.load_state_dict(ema.shadow)
    module.eval()
