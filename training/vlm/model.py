"""Qwen3-VL at the micro world's size, and its training losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPVisionModel,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from refiner.micro.world import SIZE
from refiner.training.vlm.data import HUES
from refiner.training.vlm.exchange import VlmBatch
from refiner.training.vlm.words import CHAT, CLEAN, FOUND, LAST, NEXT, connectives, coordinates, told
from refiner.training.world.labels import KIND_NAMES, LABEL_SIDE, PART_NAMES
from refiner.training.world.losses import flawed_loss, kind_loss, part_loss

_TEMPORAL = 2  # Frames in a patch. An image counts as two equal frames.
_BLUNT = 1.0  # tolerance of coordinates: sigma of a Gaussian, in pixels


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of the model's parts. The image is 96 x 96."""

    patch: int = 8  # side of a patch, in pixels
    merge: int = 2  # ``merge`` x ``merge`` patches become one token of the language model
    vision_width: int = 192
    vision_layers: int = 6
    vision_heads: int = 2
    deepstack: tuple[int, ...] = (3,)  # layers of the tower that also feed the language model's first layers
    text_width: int = 192
    text_layers: int = 4
    text_inner: int = 512
    text_heads: int = 4
    text_groups: int = 2

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return SIZE // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of the language model for an image."""
        return (self.side // self.merge) ** 2


def build_model(tokenizer: Qwen2TokenizerFast, shape: Architecture) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL with random weights, for this tokenizer."""
    head = shape.text_width // shape.text_heads
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.text_width,
        "intermediate_size": shape.text_inner,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "num_key_value_heads": shape.text_groups,
        "head_dim": head,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_heads": shape.vision_heads,
        "patch_size": shape.patch,
        "spatial_merge_size": shape.merge,
        "temporal_patch_size": _TEMPORAL,
        "out_hidden_size": shape.text_width,
        "num_position_embeddings": shape.side**2,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    marks = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for name, mark in names.items()}
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **marks)
    )
    model.generation_config.update(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.set_attn_implementation("eager")  # faster than sdpa for such short texts on a CPU
    return model


def build_processor(tokenizer: Qwen2TokenizerFast, shape: Architecture) -> Qwen3VLProcessor:
    """A processor that resizes images of any size to 96 x 96."""
    pixels, middle = SIZE * SIZE, [0.5] * 3
    images = Qwen2VLImageProcessor(
        patch_size=shape.patch,
        merge_size=shape.merge,
        temporal_patch_size=_TEMPORAL,
        size={"shortest_edge": pixels, "longest_edge": pixels},
        image_mean=middle,
        image_std=middle,
    )
    return Qwen3VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=Qwen3VLVideoProcessor(), chat_template=CHAT
    )


@torch.no_grad()
def copy_tower(model: Qwen3VLForConditionalGeneration, tower: CLIPVisionModel, pixels: Tensor) -> None:
    """Copy the weights of a trained CLIP tower of the same sizes, as far as the architectures agree.

    The training must learn the differences: Qwen3-VL also rotates queries and keys by position, and has no CLS token.
    It has no norm after the embeddings; the mean scale of CLIP's norm on ``pixels``, float (B, 3, 96, 96), replaces it.
    """
    visual, embeddings, norm = model.model.visual, tower.embeddings, tower.pre_layrnorm
    scale = norm.weight[:, None] / embeddings(pixels)[:, 1:].std(-1).mean()
    patches = embeddings.patch_embedding.weight.flatten(1)
    positions = embeddings.position_embedding.weight[1:]
    width = visual.config.patch_size
    centred = scale * (patches - patches.mean(0))
    kernel = centred.view(-1, 3, 1, width, width).expand(-1, -1, _TEMPORAL, -1, -1) / _TEMPORAL
    visual.patch_embed.proj.weight.copy_(kernel)
    visual.patch_embed.proj.bias.copy_(norm.bias)
    visual.pos_embed.weight.copy_(scale[:, 0] * (positions - positions.mean(1, keepdim=True)))
    for block, layer in zip(visual.blocks, tower.encoder.layers, strict=True):
        attention = layer.self_attn
        for kind in ("weight", "bias"):
            projections = [getattr(each, kind) for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
            getattr(block.attn.qkv, kind).copy_(torch.cat(projections))
            for ours, theirs in (
                (block.attn.proj, attention.out_proj),
                (block.norm1, layer.layer_norm1),
                (block.norm2, layer.layer_norm2),
                (block.mlp.linear_fc1, layer.mlp.fc1),
                (block.mlp.linear_fc2, layer.mlp.fc2),
            ):
                getattr(ours, kind).copy_(getattr(theirs, kind))


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the losses."""

    answer: float = 1.0  # cross-entropy of the answer's tokens, weighted by ``token_importance``
    caption: float = 0.2
    """The same for the caption's tokens. What an image shows is easier to learn than what is wrong with it."""
    flaws: float = 0.5  # predict the kind of flaw in each patch of the tower, and the flawed pixels
    parts: float = 0.25  # predict the parts that should be in each patch of the tower
    hues: float = 0.5  # predict the colour of the thing, or the background, that should be in each patch of the tower


class Trainee(nn.Module):
    """The model and the heads that only training uses."""

    importance: Tensor
    targets: Tensor

    def __init__(
        self, model: Qwen3VLForConditionalGeneration, tokenizer: Qwen2TokenizerFast, shape: Architecture
    ) -> None:
        super().__init__()
        self.model, self.shape = model, shape
        self.fine = LABEL_SIDE // shape.side
        self.head = nn.Linear(shape.vision_width, 1 + len(KIND_NAMES) + len(PART_NAMES) + self.fine**2 + len(HUES))
        nn.init.constant_(self.head.bias[1 + len(KIND_NAMES) :], -4.0)
        self.register_buffer("importance", token_importance(tokenizer), persistent=False)
        self.register_buffer("targets", token_targets(tokenizer), persistent=False)

    def losses(self, batch: VlmBatch, weights: LossWeights) -> dict[str, Tensor]:
        """The weighted losses of stage 1, by name."""
        core = self.model.model
        seen = core.visual(patches_of(batch.pixels, self.shape), grid_thw=self.grid(len(batch.ids)))
        shown = batch.ids == self.model.config.image_token_id
        embedded = core.get_input_embeddings()(batch.ids)
        embedded = embedded.masked_scatter(shown[..., None], seen.pooler_output.to(embedded.dtype))
        hidden = core.language_model(
            inputs_embeds=embedded,
            position_ids=self.positions(batch.ids),
            visual_pos_masks=shown,
            deepstack_visual_embeds=seen.deepstack_features,
            use_cache=False,
        ).last_hidden_state
        losses = {"answer": weights.answer * self._text_loss(hidden, batch.labels)}
        if weights.caption and (batch.captions >= 0).any():
            losses["caption"] = weights.caption * self._text_loss(hidden, batch.captions)
        return losses | self._dense_losses(seen.last_hidden_state, batch, weights)

    def tower_losses(self, batch: VlmBatch, weights: LossWeights) -> dict[str, Tensor]:
        """The weighted losses of stage 0 (only the tower), by name."""
        seen = self.model.model.visual(patches_of(batch.pixels, self.shape), grid_thw=self.grid(len(batch.ids)))
        return self._dense_losses(seen.last_hidden_state, batch, weights)

    def grid(self, count: int) -> Tensor:
        """Frames, rows and columns of patches of ``count`` images, int (count, 3)."""
        return torch.tensor([[1, self.shape.side, self.shape.side]], device=self.targets.device).expand(count, 3)

    def positions(self, ids: Tensor) -> Tensor:
        """Positions in time, height and width, int (3, B, L). The image is at the same place in every text."""
        kinds = (ids[:1] == self.model.config.image_token_id).int()
        positions, _ = self.model.model.get_rope_index(ids[:1], kinds, self.grid(1))
        return positions.expand(-1, len(ids), -1)

    def _text_loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        asked = labels[:, 1:] != -100
        wanted = labels[:, 1:][asked]
        logits = self.model.lm_head(hidden[:, :-1][asked]).float()
        loss = -(self.targets[wanted] * logits.log_softmax(-1)).sum(-1)
        weight = self.importance[wanted]
        return (loss * weight).sum() / weight.sum()

    def _dense_losses(self, features: Tensor, batch: VlmBatch, weights: LossWeights) -> dict[str, Tensor]:
        rows = in_rows(features, len(batch.pixels), self.shape)
        widths = [1 + len(KIND_NAMES), len(PART_NAMES), self.fine**2, len(HUES)]
        kinds, parts, flawed, hues = self.head(rows).float().split(widths, dim=2)
        square = flawed.transpose(1, 2).reshape(-1, self.fine**2, self.shape.side, self.shape.side)
        drawn = functional.pixel_shuffle(square, self.fine)[:, 0]  # every second pixel
        flaws = kind_loss(kinds, batch.masks, batch.rows, batch.kinds) + flawed_loss(drawn, batch.masks, batch.rows)
        return {
            "flaws": weights.flaws * flaws,
            "parts": weights.parts * part_loss(parts, batch.parts),
            "hues": weights.hues * hue_loss(hues, batch.hues),
        }


def hue_loss(logits: Tensor, hues: Tensor) -> Tensor:
    """Cross-entropy of the colours that should be in each patch; logits (B, N, hues).

    The target is the share of each colour of ``hues`` (as in ``VlmBatch``) among a patch's pixels. Unknown pixels (0)
    have no weight.
    """
    side = round(logits.shape[1] ** 0.5)
    shown = functional.one_hot(hues, 1 + len(HUES)).permute(0, 3, 1, 2).float()
    truth = functional.adaptive_avg_pool2d(shown, side).flatten(2).transpose(1, 2)[..., 1:]
    return -(truth * logits.log_softmax(-1)).sum() / truth.sum().clamp(min=1)


def patches_of(pixels: Tensor, shape: Architecture) -> Tensor:
    """Cut normalised images, float (B, 3, 96, 96), into patches, as the image processor does: (B * patches, values)."""
    blocks, merge, patch = shape.side // shape.merge, shape.merge, shape.patch
    cut = pixels.view(-1, 3, blocks, merge, patch, blocks, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    twice = cut.unsqueeze(6).expand(*cut.shape[:6], _TEMPORAL, patch, patch)
    return twice.reshape(-1, 3 * _TEMPORAL * patch * patch)


def in_rows(features: Tensor, count: int, shape: Architecture) -> Tensor:
    """Reorder the tower's features from blocks of merged patches to row-major order: (count, patches, width)."""
    blocks, merge = shape.side // shape.merge, shape.merge
    square = features.view(count, blocks, blocks, merge, merge, -1).transpose(2, 3)
    return square.reshape(count, shape.side**2, -1)


def token_importance(tokenizer: Qwen2TokenizerFast) -> Tensor:
    """Weight of each token's loss, float (tokens,). It is small for tokens that follow from the token before them."""
    importance = torch.ones(len(tokenizer))
    importance[tokenizer.convert_tokens_to_ids(list(connectives()))] = 0.1
    importance[tokenizer.convert_tokens_to_ids([told()[1], tokenizer.eos_token])] = 0.1
    importance[tokenizer.convert_tokens_to_ids([*coordinates(", "), *coordinates("]")])] = 2.5
    importance[tokenizer.convert_tokens_to_ids([FOUND, CLEAN])] = 4.0
    importance[tokenizer.convert_tokens_to_ids([NEXT, LAST])] = 1.5
    return importance


def token_targets(tokenizer: Qwen2TokenizerFast) -> Tensor:
    """Target distribution for each token, float (tokens, tokens). For coordinates it includes values close by."""
    targets = torch.eye(len(tokenizer))
    steps = torch.arange(SIZE + 1)
    near = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * _BLUNT**2))
    for end in (", ", "]"):
        places = torch.tensor(tokenizer.convert_tokens_to_ids(coordinates(end)))
        targets[places[:, None], places] = near / near.sum(1, keepdim=True)
    return targets
