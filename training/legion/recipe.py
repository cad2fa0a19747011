"""Train LEGION: our recipe after papers/legion.md section 4.1, at the micro world's size.

Stage 1 learns to explain and to localise (equation 4: CE + BCE + Dice); stage 2 learns the verdict alone, on the frozen
CLS feature. ``LossWeights`` defaults to the paper's 1.0, 0.4 and 0.2.

Departures, all because the paper starts from pretrained CLIP, LLaMA and SAM, and we start from nothing:

* a stage 0 stands in for pretraining: both towers learn, through heads that are thrown away afterwards, which part of
  which thing should be where, and which kind of flaw is where;
* two thirds of the pictures show the bundled generator's own flaws (``paintings.py``) in place of injected ones, and
  the word for their number weighs more than the others;
* pictures are moved by a few pixels, with their masks and what is said of where (``legion_data.moved``);
* every weight is trained in stage 1, the dense losses go on, and the masks weigh more (``micro_recipe``);
* position embeddings start from two-dimensional sines and cosines, and residual branches close to zero;
* the CLS feature is trained by an auxiliary verdict loss in stage 1: LLaVA reads the patches alone, so that without it
  the frozen CLS of a tower trained from nothing would carry no more than chance;
* LLaVA reads the tower's last layer, not the one before it: no layer is left unused.

Run ``python -P -m refiner.training.legion.recipe --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    SamImageProcessor,
)

from refiner.detectors.legion import LegionDetector, LegionModel
from refiner.errors import WeightsError
from refiner.hub import MICRO_WEIGHTS
from refiner.micro.world import SIZE
from refiner.training.common import (
    Ema,
    Means,
    Progress,
    averaged_weights,
    cosine_schedule,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
)
from refiner.training.legion.data import (
    MEAN,
    STD,
    Batch,
    Pool,
    build_tokenizer,
    example_answers,
    sample_batch,
    vocabulary_texts,
)
from refiner.training.legion.losses import LossWeights, Trainee
from refiner.training.legion.model import PROMPT, Architecture, build_model
from refiner.training.world.flaws import Imperfect
from refiner.training.world.paintings import Gallery


@dataclass(frozen=True, kw_only=True)
class Recipe:
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


def micro_recipe() -> Recipe:
    """The recipe of the bundled detector: about an hour on one core."""
    return Recipe(weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, flaws=1.0, parts=0.5, count=0.3, verdict=0.5))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run works on, made from recipe and pool."""

    recipe: Recipe
    pool: Pool
    tokenizer: PreTrainedTokenizerFast
    prompt_ids: tuple[int, ...]
    folder: Path

    def batch(self, stage: int, step: int) -> Batch:
        """The batch of a step: drawn from seed, stage and step alone."""
        recipe = self.recipe
        before = (0, recipe.tower_steps, recipe.tower_steps + recipe.steps)[stage]
        self.pool.grow(min(recipe.shards, recipe.first_shards + (before + step) // recipe.shard_every))
        seed = (recipe.seed, stage, step)
        return sample_batch(self.pool, self.tokenizer, self.prompt_ids, seed=seed, size=recipe.batch)


def prepare(recipe: Recipe, pool: Pool, folder: Path) -> tuple[Setting, Trainee]:
    """Tokenizer, setting and a model with random weights."""
    seed_everything(recipe.seed)
    tokenizer = build_tokenizer([PROMPT, *vocabulary_texts()])
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
    setting = Setting(recipe=recipe, pool=pool, tokenizer=tokenizer, prompt_ids=tuple(prompt_ids), folder=folder)
    return setting, trainee


def run_stage(
    setting: Setting,
    trainee: Trainee,
    *,
    stage: int,
    steps: int,
    loss: Callable[[Batch], dict[str, Tensor]],
    parameters: Iterator[nn.Parameter],
    until: int | None = None,
    save_every: int = 200,
) -> Ema:
    """Run one stage, or go on with it from its checkpoint; returns the weights' moving average.

    Args:
        loss: weighted losses of a batch, by name.
        until: stop before this step as if interrupted; None runs to the end.
    """
    recipe, path = setting.recipe, setting.folder / f"stage{stage}.pt"
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    schedule = cosine_schedule(min(recipe.warmup, steps // 4), steps)
    ema, start = Ema(trainee, recipe.ema), 0
    if state := load_checkpoint(path):
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        start = state["step"]
    progress, means = Progress(setting.folder, f"stage {stage}", start, steps), Means()
    trainee.train()
    stop = steps if until is None else until
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            figures = loss(setting.batch(stage, step))
        torch.stack(list(figures.values())).sum().backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(trainee)
        means.add({name: value.detach() for name, value in figures.items()})
        if (step + 1) % 50 == 0:
            progress.report(step + 1, means.take())
        if (step + 1) % save_every == 0 or step + 1 == stop:
            state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(path, {**state, "ema": ema.state_dict(), "step": step + 1})
    return ema


def stage_zero(setting: Setting, trainee: Trainee) -> Ema:
    """The two towers alone."""

    def loss(batch: Batch) -> dict[str, Tensor]:
        return trainee.tower_losses(batch, setting.recipe.weights)

    return run_stage(
        setting, trainee, stage=0, steps=setting.recipe.tower_steps, loss=loss, parameters=trainee.parameters()
    )


def stage_one(setting: Setting, trainee: Trainee, until: int | None = None) -> Ema:
    """Explain and localise."""

    def loss(batch: Batch) -> dict[str, Tensor]:
        return trainee.losses(batch, setting.recipe.weights)

    return run_stage(
        setting,
        trainee,
        stage=1,
        steps=setting.recipe.steps,
        loss=loss,
        parameters=trainee.parameters(),
        until=until,
    )


def stage_two(setting: Setting, trainee: Trainee) -> Ema:
    """The verdict alone, on the frozen CLS feature."""
    head = trainee.model.prediction_head
    assert head is not None

    def loss(batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            vision = trainee.model.encode_image(batch.pixels)
        return {"verdict": functional.cross_entropy(head(vision[:, 0]).float(), batch.real)}

    return run_stage(
        setting, trainee, stage=2, steps=setting.recipe.verdict_steps, loss=loss, parameters=head.parameters()
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


def train(recipe: Recipe, pool: Pool, folder: Path, out: Path) -> None:
    """All stages, resumed from ``folder`` where it holds checkpoints; the detector goes to ``out``."""
    setting, trainee = prepare(recipe, pool, folder)
    if not (folder / "stage1.pt").exists():
        stage_zero(setting, trainee)
    ema = stage_one(setting, trainee)
    trainee.load_state_dict(ema.shadow)
    ema = stage_two(setting, trainee)
    with averaged_weights(trainee, ema):
        export(setting, trainee.model, out)


def main() -> None:
    """``python -P -m refiner.training.legion.recipe --run runs/legion --out DIR``."""
    parser = argparse.ArgumentParser(description="Train the bundled LEGION; goes on from the checkpoints of --run.")
    parser.add_argument("--run", type=Path, default=Path("runs/legion"), help="checkpoints, log and pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained detector")
    parser.add_argument(
        "--generator", type=Path, default=MICRO_WEIGHTS / "generator", help="pipeline whose own flaws are learnt"
    )
    parser.add_argument("--paintings", type=Path, default=Path("runs/paintings"), help="folder of its pictures")
    parser.add_argument("--export-only", action="store_true", help="write what the last checkpoint holds, then stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.export_only:
        gallery = Gallery(arguments.paintings, Imperfect(arguments.generator))
        pool = Pool(arguments.run / "pool", gallery=gallery)
        train(micro_recipe(), pool, arguments.run, arguments.out)
        return
    setting, trainee = prepare(micro_recipe(), Pool(arguments.run / "pool"), arguments.run)
    state = load_checkpoint(arguments.run / "stage1.pt")
    if state is None:
        raise WeightsError(f"Expected a checkpoint of stage 1 in {str(arguments.run)!r}, got none: train first.")
    trainee.load_state_dict(state["ema"]["shadow"])
    export(setting, trainee.model, arguments.out)


if __name__ == "__main__":
    main()
