"""Train LEGION: our recipe after papers/legion.md section 4.1, at the micro world's size.

Stage 1 learns to explain and to localise (equation 4: CE + BCE + Dice); stage 2 learns the verdict alone, on the frozen
CLS feature. ``LossWeights`` defaults to the paper's 1.0, 0.4 and 0.2.

Departures, all because the paper starts from pretrained CLIP, LLaMA and SAM, and we start from nothing:

* every weight is trained in stage 1, and the masks weigh more (``micro_recipe``);
* the two towers get dense losses of their own through heads that are thrown away afterwards: the kind of flaw in each
  patch for CLIP, the flawed pixels for SAM. They stand in for pretraining;
* the CLS feature is trained by an auxiliary verdict loss in stage 1: LLaVA reads the patches alone, so that without it
  the frozen CLS of a tower trained from nothing would carry no more than chance;
* LLaVA reads the tower's last layer, not the one before it: no layer is left unused.

Run ``python -P -m refiner.training.legion --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, SamImageProcessor

from refiner.detectors.legion import LegionConfig, LegionDetector, LegionModel
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
from refiner.training.legion_data import (
    KIND_NAMES,
    MEAN,
    STD,
    Batch,
    Pool,
    build_pool,
    build_tokenizer,
    sample_batch,
    vocabulary_texts,
)

PROMPT = "<s>The <im_start><image><im_end> provides an overview of the picture. ASSISTANT:"
"""The paper's frame around the image; the one fixed instruction after it would tell a model of one task nothing."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of stage 1's losses; the first three are equation 4 with the paper's values."""

    ce: float = 1.0
    bce: float = 0.4
    dice: float = 0.2
    patches: float = 0.0
    """Kind of flaw in each CLIP patch."""
    pixels: float = 0.0
    """Flawed pixels from SAM's embedding."""
    verdict: float = 0.0
    """Real or fake from CLS, already in stage 1."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of the parts. Patches, widths and heads are those of ViTs; the picture is 96 x 96."""

    clip_patch: int = 8
    clip_width: int = 192
    clip_layers: int = 6
    text_width: int = 128
    text_layers: int = 3
    sam_patch: int = 8
    sam_width: int = 128
    sam_layers: int = 4
    mask_width: int = 128
    heads: int = 2
    verdict_width: int = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a run depends on, the pool of pictures apart."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    weights: LossWeights = field(default_factory=LossWeights)
    steps: int = 4000
    """Of stage 1."""
    verdict_steps: int = 300
    """Of stage 2."""
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema: float = 0.998
    bf16: bool = True
    """Autocast to bfloat16; the weights themselves stay float32."""


def micro_recipe() -> Recipe:
    """The recipe of the bundled detector: about an hour on one core."""
    return Recipe(weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, patches=1.0, pixels=1.0, verdict=0.3))


def build_model(tokenizer: PreTrainedTokenizerFast, shape: Architecture) -> LegionModel:
    """A LEGION with random weights for this tokenizer."""
    text = {
        "model_type": "llama",
        "hidden_size": shape.text_width,
        "intermediate_size": 3 * shape.text_width,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": shape.clip_width,
        "intermediate_size": 4 * shape.clip_width,
        "num_hidden_layers": shape.clip_layers,
        "num_attention_heads": shape.heads,
        "image_size": SIZE,
        "patch_size": shape.clip_patch,
        "projection_dim": shape.clip_width,
        "hidden_act": "gelu",
    }
    config = LegionConfig(
        llava={
            "text_config": text,
            "vision_config": vision,
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_seq_length": (SIZE // shape.clip_patch) ** 2,
            "vision_feature_layer": -1,
        },
        sam=_sam_config(shape),
        verdict_width=shape.verdict_width,
        seg_token_id=tokenizer.convert_tokens_to_ids("[SEG]"),
        prompt=PROMPT,
        max_new_tokens=256,
    )
    model = LegionModel(config)
    nn.init.normal_(model.sam.shared_image_embedding.positional_embedding)  # transformers' own scale is far too wide
    return model


def _sam_config(shape: Architecture) -> dict[str, object]:
    return {
        "vision_config": {
            "hidden_size": shape.sam_width,
            "output_channels": shape.mask_width,
            "num_hidden_layers": shape.sam_layers,
            "num_attention_heads": shape.heads,
            "image_size": SIZE,
            "patch_size": shape.sam_patch,
            "window_size": SIZE // shape.sam_patch // 2,
            "global_attn_indexes": list(range(1, shape.sam_layers, 2)),
            "num_pos_feats": shape.mask_width // 2,
            "initializer_range": 0.02,
        },
        "prompt_encoder_config": {"hidden_size": shape.mask_width, "image_size": SIZE, "patch_size": shape.sam_patch},
        "mask_decoder_config": {
            "hidden_size": shape.mask_width,
            "mlp_dim": 2 * shape.mask_width,
            "num_attention_heads": shape.heads,
            "iou_head_hidden_dim": shape.mask_width,
        },
    }


class Trainee(nn.Module):
    """The model with the two heads that only training needs."""

    def __init__(self, model: LegionModel, shape: Architecture) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(shape.clip_width, 1 + len(KIND_NAMES))
        self.pixel_head = nn.Sequential(nn.Conv2d(shape.mask_width, 16, 1), nn.PixelShuffle(4))

    def losses(self, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        """Stage 1's losses by name, unweighted; those of weight 0 are left out."""
        output = self.model(batch.ids, batch.pixels, batch.pixels)
        asked = batch.labels[:, 1:] != -100
        logits = output.logits[:, :-1][asked].float()
        losses = {"ce": functional.cross_entropy(logits, batch.labels[:, 1:][asked])}
        if len(batch.rows):
            masks = _to_picture(output.mask_logits)
            losses |= {"bce": functional.binary_cross_entropy_with_logits(masks, batch.masks)}
            losses |= {"dice": dice_loss(masks.sigmoid(), batch.masks)}
        if weights.patches:
            losses["patches"] = self._patch_loss(output.vision, batch)
        if weights.pixels:
            losses["pixels"] = self._pixel_loss(output.sam, batch)
        if weights.verdict and output.verdict_logits is not None:
            losses["verdict"] = functional.cross_entropy(output.verdict_logits.float(), batch.real)
        return losses

    def _patch_loss(self, vision: Tensor, batch: Batch) -> Tensor:
        logits = self.patch_head(vision[:, 1:]).float()
        side = round(logits.shape[1] ** 0.5)
        shares = functional.adaptive_avg_pool2d(batch.masks[:, None], side).flatten(1)
        target = torch.zeros(logits.shape[:2], dtype=torch.long)
        for row, kind, share in zip(batch.rows.tolist(), batch.kinds.tolist(), shares, strict=True):
            target[row][share > 0.06] = kind + 1
        importance = torch.ones(logits.shape[-1])
        importance[0] = 0.05
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), importance)

    def _pixel_loss(self, ground: Tensor, batch: Batch) -> Tensor:
        truth = torch.zeros(len(batch.ids), SIZE, SIZE)
        truth = truth.index_add(0, batch.rows, batch.masks).clamp(max=1)
        logits = _to_picture(self.pixel_head(ground)[:, 0])
        bce = functional.binary_cross_entropy_with_logits(logits, truth)
        return 4 * bce + dice_loss(logits.sigmoid().flatten()[None], truth.flatten()[None])


def _to_picture(logits: Tensor) -> Tensor:
    return functional.interpolate(logits[:, None].float(), (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Mean over the first axis of 1 - Dice, with LISA's scale and offset as LEGION's code has them; scalar."""
    p, g = probability.flatten(1) / 1000, truth.flatten(1) / 1000
    return (1 - (2 * (p * g).sum(1) + 1e-6) / (p.sum(1) + g.sum(1) + 1e-6)).mean()


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
        seed = (self.recipe.seed, stage, step)
        return sample_batch(self.pool, self.tokenizer, self.prompt_ids, seed=seed, size=self.recipe.batch)


def prepare(recipe: Recipe, pool: Pool, folder: Path) -> tuple[Setting, Trainee]:
    """Tokenizer, setting and a model with random weights."""
    seed_everything(recipe.seed)
    tokenizer = build_tokenizer([PROMPT, *vocabulary_texts(pool)])
    trainee = Trainee(build_model(tokenizer, recipe.architecture), recipe.architecture)
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


def stage_one(setting: Setting, trainee: Trainee, until: int | None = None) -> Ema:
    """Explain and localise."""
    weights = setting.recipe.weights
    factors = dataclasses.asdict(weights)

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {name: factors[name] * value for name, value in trainee.losses(batch, weights).items()}

    trainee.model.llava.set_attn_implementation("eager")  # three times faster than sdpa in bfloat16 on a CPU
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
    """Both stages, resumed from ``folder`` where it holds checkpoints; the detector goes to ``out``."""
    setting, trainee = prepare(recipe, pool, folder)
    ema = stage_one(setting, trainee)
    trainee.load_state_dict(ema.shadow)
    ema = stage_two(setting, trainee)
    with averaged_weights(trainee, ema):
        export(setting, trainee.model, out)


def main() -> None:
    """``python -P -m refiner.training.legion --run runs/legion --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, default=Path("runs/legion"), help="checkpoints, log and pool")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained detector")
    parser.add_argument("--shards", type=int, default=36, help="shards of 1000 pictures to draw ahead")
    parser.add_argument("--steps", type=int, default=micro_recipe().steps, help="of stage 1")
    parser.add_argument("--export-only", action="store_true", help="write what the last checkpoint holds, then stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(build_pool(arguments.run / "pool", arguments.shards, 1000, 1))
    recipe = dataclasses.replace(micro_recipe(), steps=arguments.steps)
    if not arguments.export_only:
        train(recipe, pool, arguments.run, arguments.out)
        return
    setting, trainee = prepare(recipe, pool, arguments.run)
    state = load_checkpoint(arguments.run / "stage1.pt")
    if state is None:
        raise SystemExit(f"expected a checkpoint in {arguments.run}, got none: train first.")
    trainee.load_state_dict(state["ema"]["shadow"])
    export(setting, trainee.model, arguments.out)


if __name__ == "__main__":
    main()
