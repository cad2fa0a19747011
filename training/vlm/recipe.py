"""Train the bundled vision-language model: Qwen3-VL at the micro world's size, with the questions of the detector.

The vision tower starts from the tower of the bundled LEGION, which was trained on the same images. Stage 0 trains only
the tower: it learns which part of which thing (object of the micro world) should be where, and which kind of flaw is
where. Stage 1 trains the whole model to answer, keeps the losses of stage 0, and also learns to tell the caption of an
image. A question asks for all flaws, whether claims are true, or where parts are, with or without the caption. If a
caption asks for something else than the image shows, that is a flaw too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2TokenizerFast

from refiner.data.samples import DataSet
from refiner.detectors.legion.detector import LegionDetector
from refiner.training.fit import Draw, fit, fit_settings, summed
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.vlm.data import Album
from refiner.training.vlm.eval import measure_folder
from refiner.training.vlm.exchange import VlmBatch, sample_batch
from refiner.training.vlm.model import Architecture, LossWeights, Trainee, build_model, build_processor, copy_tower
from refiner.training.vlm.words import build_tokenizer
from refiner.training.world.flaws import bundled_generator
from refiner.training.world.paintings import Gallery
from refiner.training.world.scenes import to_tensor

_PICTURES = 64  # number of images on which the scale of the copied tower's embeddings is measured


@dataclass(frozen=True, kw_only=True)
class VlmSettings(LoopSettings):
    """Settings of the vision-language model's training. The defaults made the bundled weights."""

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
    first_shards: int = 4  # Shards of images at the start. Every second shard has injected flaws.
    shards: int = 16  # shards of images at the end
    shard_every: int = 250  # steps after which another shard is added
    bf16: bool = True  # Whether to autocast to bfloat16. The weights stay float32.
    report_every: int = 50
    save_every: int = 200


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the stages of a run share: settings, data, tokenizer and run."""

    recipe: VlmSettings
    album: Album
    tokenizer: Qwen2TokenizerFast
    run: Run

    def batch(self, stage: int, part: Draw) -> VlmBatch:
        """Draw a batch. It depends only on seed, stage and part."""
        recipe = self.recipe
        before = (0, recipe.tower_steps)[stage]
        self.album.grow(min(recipe.shards, recipe.first_shards + (before + part.step) // recipe.shard_every))
        return sample_batch(
            self.album,
            self.tokenizer,
            seed=(recipe.seed, stage, *part.key),
            size=recipe.batch,
            picture_tokens=recipe.architecture.tokens,
        )


def prepare(recipe: VlmSettings, album: Album, run: Run) -> tuple[Setting, Trainee]:
    """Make the tokenizer, the setting, and a model with random weights."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    trainee = Trainee(build_model(tokenizer, recipe.architecture), tokenizer, recipe.architecture)
    return Setting(recipe=recipe, album=album, tokenizer=tokenizer, run=run), trainee


def run_stage(setting: Setting, trainee: Trainee, stage: int) -> None:
    """Run the stage of the tower (0) or of the whole model (1), or resume it. It ends with the averaged weights."""
    recipe = setting.recipe
    losses = (trainee.tower_losses, trainee.losses)[stage]
    fit(
        trainee,
        lambda part: setting.batch(stage, part),
        lambda batch: summed(losses(batch, recipe.weights)),
        fit_settings(
            recipe,
            steps=(recipe.tower_steps, recipe.steps)[stage],
            learning_rate=(recipe.tower_rate, recipe.rate)[stage],
        ),
        setting.run,
        ("tower", "answers")[stage],
    )


def export(setting: Setting, trainee: Trainee, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the model to ``folder`` with weights in ``dtype``. The model itself keeps its weights in float32."""
    build_processor(setting.tokenizer, setting.recipe.architecture).save_pretrained(folder)
    copy.deepcopy(trainee.model).to(dtype).save_pretrained(folder)


def _train(recipe: VlmSettings, data: DataSet | None, run: Run, out: Path) -> None:
    album = Album(run.folder / "album", Gallery(run.paintings, bundled_generator(run.weights)))
    setting, trainee = prepare(recipe, album, run)
    if not (run.folder / "answers.pt").exists():
        album.grow(1)
        pixels = to_tensor(np.stack([album[index].image for index in range(_PICTURES)]))
        llava = LegionDetector.from_pretrained(run.weights / "legion", device="cpu").model.llava
        copy_tower(trainee.model, llava.float().model.vision_tower, pixels)
        run_stage(setting, trainee, 0)
    run_stage(setting, trainee, 1)
    if run.processes.main:
        trainee.cpu()
        export(setting, trainee, out)


RECIPE = Recipe(
    name="vlm",
    micro=VlmSettings,
    train=_train,
    folder="vlm",
    card=Card(
        name="vlm-micro 1",
        family="vlm",
        data=lambda recipe: (
            f"micro world: {recipe.shards} shards of 1000 images with captions, half of them with injected flaws "
            "(30 % clean, half decoder-like), half drawn by the bundled generator and annotated by the referee"
        ),
    ),
    measure=measure_folder,
)
