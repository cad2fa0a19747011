"""A recipe for tests only: a tiny network learns in two stages whether an image of a dataset is flawed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from refiner.data.samples import DataSet
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.recipes import Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings

ROW = {"throwaway": "support.throwaway_recipe:RECIPE"}


@dataclass(frozen=True, kw_only=True)
class Settings(LoopSettings):
    steps: int = 6
    batch: int = 4
    learning_rate: float = 0.05
    seed: int = 0
    report_every: int = 1


def train(settings: Settings, data: DataSet | None, run: Run, out: Path) -> None:
    assert data is not None
    torch.manual_seed(settings.seed)
    network = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(108, 8), nn.Tanh(), nn.Linear(8, 1))

    def draw(part: Draw) -> tuple[Tensor, Tensor]:
        rows = np.random.default_rng([settings.seed, *part.key]).integers(len(data.names), size=settings.batch)
        samples = [data.load(int(row)) for row in rows]
        images = np.stack([np.asarray(sample.image, dtype=np.float32) for sample in samples]).transpose(0, 3, 1, 2)
        return torch.from_numpy(images / 255), torch.tensor([float(bool(sample.fake)) for sample in samples])

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images, fake = batch
        return functional.binary_cross_entropy_with_logits(network(images)[:, 0].float(), fake), {}

    for name, steps in (("toy", settings.steps), ("more", 2)):
        own = fit_settings(settings, steps=steps, learning_rate=settings.learning_rate, warmup=2)
        fit(network, draw, loss, own, run, name)
    if run.processes.main:
        out.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu() for name, tensor in network.state_dict().items()}, out / "model.safetensors")


RECIPE = Recipe(
    name="throwaway", help="a toy", budget="a second", micro=Settings, train=train, data="images known flawed or clean"
)
