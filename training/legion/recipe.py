"""Train LEGION after papers/legion.md, section 4.1, at the micro world's size.

Stage 1 learns to explain and to localise flaws (equation 4: CE + BCE + Dice). Stage 2 learns only the verdict (real or
fake), from the frozen CLS feature. The defaults of ``LossWeights`` are the paper's: 1.0, 0.4 and 0.2.

The paper starts from pretrained CLIP, LLaMA and SAM; this recipe trains from scratch. Therefore it departs from the
paper:

* Stage 0 replaces pretraining. Both towers learn which part of which thing (object of the micro world) should be where,
  and which kind of flaw is where. The heads for this are dropped afterwards.
* Two thirds of the images show the bundled generator's own flaws (``world/paintings.py``), not injected ones. The word
  for the number of flaws has more weight than other words.
* Images are shifted by a few pixels, with their masks and the locations in the answers (``data.moved``).
* Stage 1 trains every weight and keeps the losses of stage 0. The mask losses have more weight (``micro_recipe``).
* Position embeddings start from two-dimensional sines and cosines. Residual branches start close to zero.
* An auxiliary verdict loss trains the CLS feature in stage 1. LLaVA reads only the patches; without this loss the CLS
  feature of a tower trained from scratch would be no better than chance.
* LLaVA reads the tower's last layer, not the one before it, so that no layer is unused.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, SamImageProcessor

from refiner.data.samples import DataSet
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.modeling import LegionModel
from refiner.micro.world import SIZE
from refiner.training.averaging import Ema
from refiner.training.fit import Draw, fit, fit_settings, summed
from refiner.training.legion.data import MEAN, STD, LegionBatch, Pool, example_answers, sample_batch, vocabulary_texts
from refiner.training.legion.dry_run import dry_run
from refiner.training.legion.losses import LossWeights, Trainee
from refiner.training.legion.model import PROMPT, Architecture, build_model
from refiner.training.legion.settings import CONFIGS, TuneSettings
from refiner.training.legion.tuning import check_base, train_on
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.world.flaws import bundled_generator
from refiner.training.world.localization import measure_detector
from refiner.training.world.paintings import Gallery
from refiner.training.world.tokenizers import answer_tokenizer


@dataclass(frozen=True, kw_only=True)
class LegionSettings(LoopSettings):
    """Settings of LEGION's training. ``micro_recipe`` returns those of the bundled weights."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    weights: LossWeights = field(default_factory=LossWeights)
    tower_steps: int = 1600  # steps of stage 0
    steps: int = 4000  # steps of stage 1
    verdict_steps: int = 300  # steps of stage 2
    first_shards: int = 6  # shards of images at the start
    shards: int = 32  # shards of images at the end
    shard_every: int = 150  # steps after which another shard is added
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema: float = 0.998
    bf16: bool = True  # Whether to autocast to bfloat16. The weights stay float32.
    report_every: int = 50
    save_every: int = 200


def micro_recipe() -> LegionSettings:
    """Settings of the bundled detector. The training takes about an hour on one core."""
    return LegionSettings(weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, flaws=1.0, parts=0.5, count=0.3, verdict=0.5))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the stages of a run share: settings, data, tokenizer, prompt and run."""

    recipe: LegionSettings
    pool: Pool
    tokenizer: PreTrainedTokenizerFast
    prompt_ids: tuple[int, ...]
    run: Run

    def batch(self, stage: int, part: Draw) -> LegionBatch:
        """Draw a batch. It depends only on seed, stage and part."""
        recipe = self.recipe
        before = (0, recipe.tower_steps, recipe.tower_steps + recipe.steps)[stage]
        self.pool.grow(min(recipe.shards, recipe.first_shards + (before + part.step) // recipe.shard_every))
        seed = (recipe.seed, stage, *part.key)
        return sample_batch(self.pool, self.tokenizer, self.prompt_ids, seed=seed, size=recipe.batch)


def prepare(recipe: LegionSettings, pool: Pool, run: Run) -> tuple[Setting, Trainee]:
    """Make the tokenizer, the setting, and a model with random weights."""
    torch.manual_seed(recipe.seed)
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
    """Run a stage, or resume it: the towers (0), explaining and localising (1), only the verdict (2).

    Returns:
        The moving average of the weights. After stages 1 and 2 the module holds it; after stage 0 it holds the last
        weights.
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

    settings = fit_settings(
        recipe, steps=steps, warmup=min(recipe.warmup, steps // 4), betas=(0.9, 0.95), average=stage > 0
    )
    parameters = head.parameters() if stage == 2 else None
    return fit(
        trainee,
        lambda part: setting.batch(stage, part),
        lambda batch: summed(losses(batch, recipe.weights)),
        settings,
        setting.run,
        f"stage{stage}",
        parameters,
    )


def export(setting: Setting, model: LegionModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the detector to ``folder`` with weights in ``dtype``. The model itself keeps its weights in float32."""
    model.config.examples = example_answers()
    square = {"height": SIZE, "width": SIZE}
    detector = LegionDetector(
        copy.deepcopy(model).to(dtype),
        setting.tokenizer,
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square, image_mean=[MEAN] * 3, image_std=[STD] * 3),
        SamImageProcessor(size={"longest_edge": SIZE}, pad_size=square, image_mean=[MEAN] * 3, image_std=[STD] * 3),
        name="legion",
    )
    detector.save_pretrained(folder)


def _train(recipe: LegionSettings | TuneSettings, data: DataSet | None, run: Run, out: Path) -> None:
    if isinstance(recipe, TuneSettings):
        assert data is not None
        train_on(recipe, data, run, out)
    else:
        _train_micro(recipe, run, out)


def _check(recipe: LegionSettings | TuneSettings) -> None:
    if isinstance(recipe, TuneSettings):
        check_base(recipe)


def _train_micro(recipe: LegionSettings, run: Run, out: Path) -> None:
    pool = Pool(run.folder / "pool", Gallery(run.paintings, bundled_generator(run.weights)))
    setting, trainee = prepare(recipe, pool, run)
    first = 1 if (run.folder / "stage1.pt").exists() else 0
    for stage in range(first, 3):
        run_stage(setting, trainee, stage)
    if run.processes.main:
        export(setting, trainee.model.cpu(), out)


RECIPE = Recipe(
    name="legion",
    micro=micro_recipe,
    train=_train,
    configs=CONFIGS,
    check=_check,
    dry_run=dry_run,
    folder="legion",
    card=Card(
        name="legion-micro 8",
        family="legion",
        data=lambda recipe: (
            f"micro world: {recipe.shards} shards of 1000 images from seed 1 on, two of three with the generator's "
            "own flaws, the others with injected flaws (35 % clean, half decoder-like)"
        ),
    ),
    measure=measure_detector,
    measured=500,
)
