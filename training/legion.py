"""Train LEGION: our recipe after papers/legion.md section 4.1, at the micro world's size.

Stage 1 learns to explain and to localise (equation 4: CE + BCE + Dice); stage 2 learns the verdict alone, on the frozen
CLS feature. ``LossWeights`` defaults to the paper's 1.0, 0.4 and 0.2.

Departures, all because the paper starts from pretrained CLIP, LLaMA and SAM, and we start from nothing:

* a stage 0 stands in for pretraining: both towers learn, through heads that are thrown away afterwards, which part of
  which thing should be where, and which kind of flaw is where;
* every weight is trained in stage 1, the dense losses go on, and the masks weigh more (``micro_recipe``);
* position embeddings start from two-dimensional sines and cosines, and residual branches close to zero;
* the CLS feature is trained by an auxiliary verdict loss in stage 1: LLaVA reads the patches alone, so that without it
  the frozen CLS of a tower trained from nothing would carry no more than chance;
* LLaVA reads the tower's last layer, not the one before it: no layer is left unused.

Run ``python -P -m refiner.training.legion --help``.
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
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SamImageProcessor,
    SamVisionConfig,
)

from refiner.detectors.legion import LegionConfig, LegionDetector, LegionModel
from refiner.errors import WeightsError
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
    LABEL_SIDE,
    MEAN,
    PART_NAMES,
    STD,
    Batch,
    Pool,
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
    flaws: float = 0.0
    """Kind of flaw in each CLIP patch, flawed pixels from SAM's embedding."""
    parts: float = 0.0
    """Which part should be in each CLIP patch, and in each pixel from SAM's embedding."""
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
    tower_steps: int = 3500
    """Of stage 0."""
    steps: int = 4500
    """Of stage 1."""
    verdict_steps: int = 300
    """Of stage 2."""
    first_shards: int = 6
    """Shards of pictures to begin with."""
    shards: int = 48
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
    return Recipe(weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, flaws=1.0, parts=0.5, verdict=0.3))


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
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: LegionModel) -> None:
    """What lets towers learn from nothing; transformers' own values are meant to be overwritten by a checkpoint."""
    nn.init.normal_(model.sam.shared_image_embedding.positional_embedding)
    tower, encoder = model.llava.model.vision_tower, model.sam.vision_encoder
    tower.embeddings.position_embedding.weight[1:] = 0.2 * _sines(tower.config)
    encoder.pos_embed.copy_(0.2 * _sines(encoder.config).reshape(encoder.pos_embed.shape))
    for embedding in (tower.embeddings.patch_embedding.weight, encoder.patch_embed.projection.weight):
        nn.init.normal_(embedding, std=embedding[0].numel() ** -0.5)
    for layer in tower.encoder.layers:
        for weight in (layer.self_attn.out_proj.weight, layer.mlp.fc2.weight):
            nn.init.normal_(weight, std=1e-3)
    for layer in encoder.layers:
        for weight in (layer.attn.proj.weight, layer.mlp.lin2.weight):
            nn.init.normal_(weight, std=1e-3)


def _sines(config: CLIPVisionConfig | SamVisionConfig) -> Tensor:
    """Two-dimensional sines and cosines, float (patches, width)."""
    side, quarter = config.image_size // config.patch_size, config.hidden_size // 4
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    rates = 100.0 ** (-torch.arange(quarter) / quarter)
    waves = [wave(axis.flatten()[:, None] * rates) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)


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
    """The model with the heads that only training needs."""

    def __init__(self, model: LegionModel, shape: Architecture) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(shape.clip_width, 1 + len(KIND_NAMES) + len(PART_NAMES))
        zoom = LABEL_SIDE * shape.sam_patch // SIZE
        channels = (2 + len(PART_NAMES)) * zoom**2
        self.pixel_head = nn.Sequential(nn.Conv2d(shape.mask_width, channels, 1), nn.PixelShuffle(zoom))
        nn.init.constant_(self.patch_head.bias[1 + len(KIND_NAMES) :], -4.0)  # a given part is seldom in a given patch

    def losses(self, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        """Stage 1's losses by name, weighted."""
        output = self.model(batch.ids, batch.pixels, batch.pixels)
        asked = batch.labels[:, 1:] != -100
        logits = output.logits[:, :-1][asked].float()
        losses = {"ce": weights.ce * functional.cross_entropy(logits, batch.labels[:, 1:][asked])}
        if len(batch.rows):
            masks = _to_picture(output.mask_logits)
            losses["bce"] = weights.bce * functional.binary_cross_entropy_with_logits(masks, batch.masks)
            losses["dice"] = weights.dice * dice_loss(masks.sigmoid(), batch.masks)
        return losses | self.dense_losses(output.vision, output.sam, batch, weights)

    def tower_losses(self, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        """Stage 0's losses by name, weighted."""
        vision, ground = self.model.encode_image(batch.pixels), self.model.encode_ground(batch.pixels)
        return self.dense_losses(vision, ground, batch, weights)

    def dense_losses(self, vision: Tensor, ground: Tensor, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        """The losses of both towers' features, by name, weighted."""
        kinds, parts = self.patch_head(vision[:, 1:]).float().split([1 + len(KIND_NAMES), len(PART_NAMES)], dim=2)
        flawed, seen = self.pixel_head(ground).float().split([1, 1 + len(PART_NAMES)], dim=1)
        losses = {
            "flaws": weights.flaws * (_kind_loss(kinds, batch) + _flawed_loss(flawed[:, 0], batch)),
            "parts": weights.parts * (_part_loss(parts, batch.parts) + _seen_loss(seen, batch.parts)),
        }
        verdict = self.model.verdict(vision)
        if verdict is not None and weights.verdict:
            losses["verdict"] = weights.verdict * functional.cross_entropy(verdict.float(), batch.real)
        return losses


def _kind_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Kind of flaw in each patch: (B, N, 1 + kinds), 0 for none, which counts a twentieth."""
    side = round(logits.shape[1] ** 0.5)
    shares = functional.adaptive_avg_pool2d(batch.masks[:, None], side).flatten(1)
    target = torch.zeros(logits.shape[:2], dtype=torch.long)
    for row, kind, share in zip(batch.rows.tolist(), batch.kinds.tolist(), shares, strict=True):
        target[row][share > 0.06] = kind + 1
    importance = torch.ones(logits.shape[-1])
    importance[0] = 0.05
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), importance)


def _flawed_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Flawed or not at each pixel: (B, 48, 48)."""
    truth = torch.zeros(len(batch.ids), SIZE, SIZE).index_add(0, batch.rows, batch.masks).clamp(max=1)
    logits = _to_picture(logits)
    bce = functional.binary_cross_entropy_with_logits(logits, truth)
    return 4 * bce + dice_loss(logits.sigmoid().flatten()[None], truth.flatten()[None])


def _part_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Which parts should be in each patch: (B, N, parts); mean over the parts that are there."""
    side = round(logits.shape[1] ** 0.5)
    shown = functional.one_hot(parts, 1 + len(PART_NAMES)).permute(0, 3, 1, 2).float()
    truth = (functional.adaptive_avg_pool2d(shown, side) > 0.05).flatten(2).transpose(1, 2)[..., 1:].float()
    total = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return total / truth.sum().clamp(min=1)


def _seen_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Which part should be at each pixel: (B, 1 + parts, 48, 48); the background counts a fifth."""
    importance = torch.ones(logits.shape[1])
    importance[0] = 0.2
    return functional.cross_entropy(logits, parts, importance)


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
        recipe = self.recipe
        before = (0, recipe.tower_steps, recipe.tower_steps + recipe.steps)[stage]
        self.pool.grow(min(recipe.shards, recipe.first_shards + (before + step) // recipe.shard_every))
        seed = (recipe.seed, stage, step)
        return sample_batch(self.pool, self.tokenizer, self.prompt_ids, seed=seed, size=recipe.batch)


def prepare(recipe: Recipe, pool: Pool, folder: Path) -> tuple[Setting, Trainee]:
    """Tokenizer, setting and a model with random weights."""
    seed_everything(recipe.seed)
    tokenizer = build_tokenizer([PROMPT, *vocabulary_texts(recipe.seed)])
    trainee = Trainee(build_model(tokenizer, recipe.architecture), recipe.architecture)
    trainee.model.llava.set_attn_implementation("eager")  # three times faster than sdpa in bfloat16 on a CPU
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
    """``python -P -m refiner.training.legion --run runs/legion --out DIR``."""
    parser = argparse.ArgumentParser(description="Train the bundled LEGION; goes on from the checkpoints of --run.")
    parser.add_argument("--run", type=Path, default=Path("runs/legion"), help="checkpoints, log and pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained detector")
    parser.add_argument("--export-only", action="store_true", help="write what the last checkpoint holds, then stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(arguments.run / "pool")
    if not arguments.export_only:
        train(micro_recipe(), pool, arguments.run, arguments.out)
        return
    setting, trainee = prepare(micro_recipe(), pool, arguments.run)
    state = load_checkpoint(arguments.run / "stage1.pt")
    if state is None:
        raise WeightsError(f"Expected a checkpoint of stage 1 in {str(arguments.run)!r}, got none: train first.")
    trainee.load_state_dict(state["ema"]["shadow"])
    export(setting, trainee.model, arguments.out)


if __name__ == "__main__":
    main()
