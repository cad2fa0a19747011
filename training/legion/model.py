"""LEGION at the micro world's size, with initial weights that make training from scratch possible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.micro.world import SIZE
from refiner.training.world.losses import sines

PROMPT = "<s>The <im_start><image><im_end> provides an overview of the picture. ASSISTANT:"
"""The paper's prompt around the image, without the fixed instruction: with only one task it has no information."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of the model's parts, as for ViTs: patch side in pixels, width, layers, heads. The image is 96 x 96."""

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


def build_model(tokenizer: PreTrainedTokenizerFast, shape: Architecture) -> LegionModel:
    """A LEGION with random weights, for this tokenizer."""
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
        clean_threshold=0.5,  # so that at most a tenth of the clean images get regions
    )
    model = LegionModel(config)
    _initialise(model, shape)
    return model


@torch.no_grad()
def _initialise(model: LegionModel, shape: Architecture) -> None:
    """Initialise the towers for training from scratch. transformers' initial values assume a checkpoint."""
    nn.init.normal_(model.sam.shared_image_embedding.positional_embedding)
    tower, encoder = model.llava.model.vision_tower, model.sam.vision_encoder
    tower.embeddings.position_embedding.weight[1:] = 0.2 * sines(SIZE // shape.clip_patch, shape.clip_width)
    encoder.pos_embed.copy_(0.2 * sines(SIZE // shape.sam_patch, shape.sam_width).reshape(encoder.pos_embed.shape))
    for embedding in (tower.embeddings.patch_embedding.weight, encoder.patch_embed.projection.weight):
        nn.init.normal_(embedding, std=embedding[0].numel() ** -0.5)
    for part in (model.sam.mask_decoder, model.text_hidden_fcs):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d):
                inputs = module.weight.shape[1] if isinstance(module, nn.Linear) else module.weight.shape[0]
                nn.init.normal_(module.weight, std=inputs**-0.5)
    ends = [part for layer in tower.encoder.layers for part in (layer.self_attn.out_proj, layer.mlp.fc2)]
    ends += [part for layer in encoder.layers for part in (layer.attn.proj, layer.mlp.lin2)]
    for part in ends:
        nn.init.normal_(part.weight, std=1e-3)


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
