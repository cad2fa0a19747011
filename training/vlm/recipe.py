"""Train the bundled vision-language model: Qwen3-VL at the micro world's size, asked what the detector asks.

Its tower begins with that of the bundled LEGION, which knows the same world, and first learns alone which part of which
thing should be where, and which kind of flaw is where. Then everything learns to answer, and these losses go on; to
tell the caption of a picture is learnt beside it. A question is for all flaws or whether claims are true, and tells
the caption or does not; captions that ask for something else than the picture shows are flaws of their own.

Run ``python -P -m refiner.training.vlm.recipe --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2TokenizerFast

from refiner.detectors.legion import LegionDetector
from refiner.errors import WeightsError
from refiner.hub import MICRO_WEIGHTS
from refiner.training.common import load_checkpoint, seed_everything
from refiner.training.fit import FitSettings, fit
from refiner.training.vlm.data import Album
from refiner.training.vlm.exchange import Batch, normalise, sample_batch
from refiner.training.vlm.model import (
    Architecture,
    LossWeights,
    Trainee,
    build_model,
    build_processor,
    copy_tower,
)
from refiner.training.vlm.words import build_tokenizer
from refiner.training.world.flaws import Imperfect
from refiner.training.world.paintings import Gallery

_PICTURES = 64
"""That the scale of a copied tower's embeddings is measured on."""


@dataclass(frozen=True, kw_only=True)
class VlmRecipe:
    """All that a run depends on, the pictures and the copied tower apart."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    weights: LossWeights = field(default_factory=LossWeights)
    tower_steps: int = 300
    tower_rate: float = 6e-4
    steps: int = 3600
    rate: float = 8e-4
    warmup: int = 100
    weight_decay: float = 0.02
    ema: float = 0.998
    batch: int = 16
    first_shards: int = 4
    """Shards of pictures to begin with, every other one of injected flaws."""
    shards: int = 16
    """Shards in the end."""
    shard_every: int = 250
    """Steps between one new shard and the next."""
    bf16: bool = True
    """Autocast to bfloat16; the weights themselves stay float32."""
    save_every: int = 200


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run works on, made from recipe and pictures."""

    recipe: VlmRecipe
    album: Album
    tokenizer: Qwen2TokenizerFast
    folder: Path

    def batch(self, stage: int, step: int) -> Batch:
        """The batch of a step: drawn from seed, stage and step alone."""
        recipe = self.recipe
        before = (0, recipe.tower_steps)[stage]
        self.album.grow(min(recipe.shards, recipe.first_shards + (before + step) // recipe.shard_every))
        return sample_batch(
            self.album.items,
            self.tokenizer,
            seed=(recipe.seed, stage, step),
            size=recipe.batch,
            picture_tokens=recipe.architecture.tokens,
        )


def prepare(recipe: VlmRecipe, album: Album, folder: Path) -> tuple[Setting, Trainee]:
    """Tokenizer, setting and a model with random weights."""
    seed_everything(recipe.seed)
    tokenizer = build_tokenizer()
    trainee = Trainee(build_model(tokenizer, recipe.architecture), tokenizer, recipe.architecture)
    return Setting(recipe=recipe, album=album, tokenizer=tokenizer, folder=folder), trainee


def begin_with(setting: Setting, trainee: Trainee, legion: Path) -> None:
    """Copy the tower of a LEGION of the same sizes."""
    setting.album.grow(1)
    pixels = normalise(np.stack([item.image for item in setting.album.items[:_PICTURES]]))
    llava = LegionDetector.from_pretrained(legion, device="cpu").model.llava
    copy_tower(trainee.model, llava.float().model.vision_tower, pixels)


def run_stage(setting: Setting, trainee: Trainee, stage: int) -> None:
    """Run the tower's stage (0) or the whole model's (1), or go on from its checkpoint; ends with averaged weights."""
    recipe = setting.recipe
    losses: Callable[[Batch, LossWeights], dict[str, Tensor]] = (trainee.tower_losses, trainee.losses)[stage]

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = setting.batch(stage, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            figures = losses(batch, recipe.weights)
        return torch.stack(list(figures.values())).sum(), {name: loss.detach() for name, loss in figures.items()}

    settings = FitSettings(
        steps=(recipe.tower_steps, recipe.steps)[stage],
        learning_rate=(recipe.tower_rate, recipe.rate)[stage],
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        ema=recipe.ema,
        seed=recipe.seed,
        report_every=50,
        save_every=recipe.save_every,
    )
    fit(trainee, loss_of_step, settings, setting.folder, ("tower", "answers")[stage])


def export(setting: Setting, trainee: Trainee, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the model's folder, weights in ``dtype``; the model itself keeps its own."""
    kept = {name: tensor.detach().clone() for name, tensor in trainee.model.state_dict().items()}
    build_processor(setting.tokenizer, setting.recipe.architecture).save_pretrained(folder)
    trainee.model.to(dtype).save_pretrained(folder)
    trainee.model.float().load_state_dict(kept)


def train(recipe: VlmRecipe, album: Album, folder: Path, legion: Path, out: Path) -> None:
    """Both stages, resumed from ``folder`` where it holds checkpoints; the model goes to ``out``.

    Args:
        legion: folder of the LEGION whose tower is copied.
    """
    setting, trainee = prepare(recipe, album, folder)
    if not (folder / "answers.pt").exists():
        begin_with(setting, trainee, legion)
        run_stage(setting, trainee, 0)
    run_stage(setting, trainee, 1)
    export(setting, trainee, out)


def export_checkpoint(setting: Setting, trainee: Trainee, out: Path) -> None:
    """Write the averaged weights of the last checkpoint.

    Raises:
        WeightsError: there is none.
    """
    state = load_checkpoint(setting.folder / "answers.pt")
    if state is None:
        raise WeightsError(f"Expected a checkpoint in {str(setting.folder)!r}, got none: train first.")
    trainee.load_state_dict(state["ema"]["shadow"])
    export(setting, trainee, out)


def main() -> None:
    """``python -P -m refiner.training.vlm.recipe --run runs/vlm --out DIR``."""
    parser = argparse.ArgumentParser(
        description="Train the bundled vision-language model; goes on from the checkpoints of --run."
    )
    parser.add_argument("--run", type=Path, default=Path("runs/vlm"), help="checkpoints, log and pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--legion", type=Path, default=MICRO_WEIGHTS / "legion", help="whose tower to begin with")
    parser.add_argument(
        "--generator", type=Path, default=MICRO_WEIGHTS / "generator", help="pipeline whose own flaws are learnt"
    )
    parser.add_argument("--paintings", type=Path, default=Path("runs/paintings"), help="folder of its pictures")
    parser.add_argument("--export-only", action="store_true", help="write what the last checkpoint holds, then stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.export_only:
        setting, trainee = prepare(VlmRecipe(), Album(arguments.run / "album"), arguments.run)
        export_checkpoint(setting, trainee, arguments.out)
        return
    album = Album(arguments.run / "album", Gallery(arguments.paintings, Imperfect(arguments.generator)))
    train(VlmRecipe(), album, arguments.run, arguments.legion, arguments.out)


if __name__ == "__main__":
    main()
