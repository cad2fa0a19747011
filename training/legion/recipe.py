"""Train LEGION: our recipe after papers/legion.md section 4.1, at the micro world's size.

Stage 1 learns to explain and to localise (equation 4: CE + BCE + Dice); stage 2 learns the verdict alone, on the frozen
CLS feature. ``LossWeights`` defaults to the paper's 1.0, 0.4 and 0.2.

Departures, all because the paper starts from pretrained CLIP, LLaMA and SAM, and we start from nothing:

* a stage 0 stands in for pretraining: both towers learn, through heads that are thrown away afterwards, which part of
  which thing should be where, and which kind of flaw is where;
* two thirds of the pictures show the bundled generator's own flaws (``world/paintings.py``) in place of injected ones,
  and the word for their number weighs more than the others;
* pictures are moved by a few pixels, with their masks and what is said of where (``data.moved``);
* every weight is trained in stage 1, the dense losses go on, and the masks weigh more (``micro_recipe``);
* position embeddings start from two-dimensional sines and cosines, and residual branches close to zero;
* the CLS feature is trained by an auxiliary verdict loss in stage 1: LLaVA reads the patches alone, so that without it
  the frozen CLS of a tower trained from nothing would carry no more than chance;
* LLaVA reads the tower's last layer, not the one before it: no layer is left unused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    SamImageProcessor,
)

from refiner.data.samples import DataSet
from refiner.detectors.legion import LegionDetector, LegionModel
from refiner.micro.world import SIZE
from refiner.training.averaging import Ema
from refiner.training.checkpoints import seed_everything
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.legion.data import MEAN, STD, LegionBatch, Pool, example_answers, sample_batch, vocabulary_texts
from refiner.training.legion.losses import LossWeights, Trainee
from refiner.training.legion.model import PROMPT, Architecture, build_model
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings, within
from refiner.training.world.flaws import bundled_generator
from refiner.training.world.localization import measure_detector
from refiner.training.world.paintings import Gallery
from refiner.training.world.tokenizers import answer_tokenizer


@dataclass(frozen=True, kw_only=True)
class LegionSettings(LoopSettings):
    """All that a run depends on, the pool of pictures apart."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    weights: LossWeights = field(default_factory=LossWeights)
    tower_steps: int = 1600
    """Of stage 0."""
    steps: int = 4000
    """Of stage 1."""
    verdict_steps: int = 300
    """Of stage 2."""
    first_shards: int = 6
    """Shards of pictures to begin with."""
    shards: int = 32
    """Shards in the end."""
    shard_every: int = 150
    """Steps between one new shard and the next."""
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema: float = 0.998
    bf16: bool = True
    """Autocast to bfloat16; the weights themselves stay float32."""
    report_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, tower_steps=(0, None), verdict_steps=(0, None), first_shards=(1, None), shards=(1, None))
        within(self, shard_every=(1, None))


def micro_recipe() -> LegionSettings:
    """The recipe of the bundled detector: about an hour on one core."""
    return LegionSettings(weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, flaws=1.0, parts=0.5, count=0.3, verdict=0.5))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run works on, made from recipe and pool."""

    recipe: LegionSettings
    pool: Pool
    tokenizer: PreTrainedTokenizerFast
    prompt_ids: tuple[int, ...]
    run: Run

    def batch(self, stage: int, part: Draw) -> LegionBatch:
        """A batch, drawn from seed, stage and part alone."""
        recipe = self.recipe
        before = (0, recipe.tower_steps, recipe.tower_steps + recipe.steps)[stage]
        self.pool.grow(min(recipe.shards, recipe.first_shards + (before + part.step) // recipe.shard_every))
        seed = (recipe.seed, stage, *part.key)
        return sample_batch(self.pool, self.tokenizer, self.prompt_ids, seed=seed, size=recipe.batch)


def prepare(recipe: LegionSettings, pool: Pool, run: Run) -> tuple[Setting, Trainee]:
    """Tokenizer, setting and a model with random weights."""
    seed_everything(recipe.seed)
    tokenizer = answer_tokenizer([PROMPT, *vocabulary_texts()])
    trainee = Trainee(build_model(tokenizer, recipe.architecture), recipe.architecture)
    trainee.model.llava.set_attn_implementation("eager")  # three times as fast as sdpa in bfloat16 on a CPU
    trainee.model.sam.vision_encoder.set_attn_implementation("eager")
    patches = (SIZE // recipe.architecture.clip_patch) ** 2
    image = tokenizer.convert_tokens_to_ids("<image>")
    prompt_ids = [
        token
        for one in tokenizer.encode(PROMPT, add_special_tokens=False)
        for token in [one] * (patches if one == image else 1)
    ]
    setting = Setting(recipe=recipe, pool=pool, tokenizer=tokenizer, prompt_ids=tuple(prompt_ids), run=run)
    return setting, trainee


def run_stage(setting: Setting, trainee: Trainee, stage: int) -> Ema:
    """Run a stage, or go on with it from its checkpoint: the towers alone (0), to explain and localise (1), the verdict
    alone on the frozen CLS feature (2).

    Returns:
        The weights' moving average. After stage 0 the module goes on with its last weights, else it holds the average.
    """
    recipe = setting.recipe
    steps = (recipe.tower_steps, recipe.steps, recipe.verdict_steps)[stage]
    head = trainee.model.prediction_head
    assert head is not None

    def verdict_losses(batch: LegionBatch, _: LossWeights) -> dict[str, Tensor]:
        with torch.no_grad():
            vision = trainee.model.encode_image(batch.pixels)
        return {"verdict": functional.cross_entropy(head(vision[:, 0]).float(), batch.real)}

    losses = (trainee.tower_losses, trainee.losses, verdict_losses)[stage]

    def loss(batch: LegionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        figures = losses(batch, recipe.weights)
        total = torch.stack(list(figures.values())).sum()
        return total, {name: value.detach() for name, value in figures.items()}

    settings = fit_settings(
        recipe,
        steps=steps,
        learning_rate=recipe.learning_rate,
        warmup=min(recipe.warmup, steps // 4),
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.95),
        ema=recipe.ema,
        seed=recipe.seed,
        dtype="bfloat16" if recipe.bf16 else "float32",
        average=stage > 0,
    )
    parameters = head.parameters() if stage == 2 else None
    return fit(
        trainee, lambda part: setting.batch(stage, part), loss, settings, setting.run, f"stage{stage}", parameters
    )


def export(setting: Setting, model: LegionModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the detector's folder, weights in ``dtype``; the model itself keeps its own."""
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.config.examples = example_answers()
    detector = LegionDetector(
        model.to(dtype),
        setting.tokenizer,
        CLIPImageProcessor(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ),
        SamImageProcessor(
            size={"longest_edge": SIZE},
            pad_size={"height": SIZE, "width": SIZE},
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ),
        name="legion",
    )
    detector.save_pretrained(folder)
    model.float().load_state_dict(kept)


def train(recipe: LegionSettings, pool: Pool, run: Run, out: Path) -> None:
    """All stages, resumed where the run's folder holds checkpoints; the detector goes to ``out``."""
    setting, trainee = prepare(recipe, pool, run)
    first = 1 if (run.folder / "stage1.pt").exists() else 0
    for stage in range(first, 3):
        run_stage(setting, trainee, stage)
    if run.processes.main:
        export(setting, trainee.model.cpu(), out)


def _train(recipe: LegionSettings, data: DataSet | None, run: Run, out: Path) -> None:
    gallery = Gallery(run.paintings, bundled_generator(run.weights))
    train(recipe, Pool(run.folder / "pool", gallery=gallery), run, out)


RECIPE = Recipe(
    name="legion",
    micro=micro_recipe,
    train=_train,
    folder="legion",
    card=Card(
        name="legion-micro 8",
        family="legion",
        data=lambda recipe: (
            f"micro world: {recipe.shards} shards of 1000 pictures from seed 1 on, two of three with the generator's "
            "own flaws, the others with injected ones (35 % clean, half decoder-like)"
        ),
    ),
    measure=measure_detector,
    measured=500,
)
