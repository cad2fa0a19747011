"""Tiny random pipelines of the families whose text encoders are chat models, as most newer ones have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from support.tiny_chat_models import IMAGE_TEMPLATE, tokenizer_of
from support.tiny_parts import flow
from support.tiny_pipelines import Tiny, quiet


def flux_2() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=True,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, layers_per_block=1,
    )  # fmt: skip
    text = {
        "model_type": "mistral", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 8, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=10)
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer_of(IMAGE_TEMPLATE), chat_template=IMAGE_TEMPLATE
    )
    return quiet(
        diffusers.Flux2Pipeline(
            scheduler=flow(), vae=vae.eval(), text_encoder=Mistral3ForConditionalGeneration(config).eval(),
            tokenizer=processor, transformer=transformer.eval(),
        )
    )  # fmt: skip


_FLUX_2: Mapping[str, Any] = {"max_sequence_length": 256, "text_encoder_out_layers": (0, 1, 2)}

NEWER: Mapping[str, Tiny] = {
    "Flux2Pipeline": Tiny(build=flux_2, call=_FLUX_2, native=32, rows=1, rows_with_negative=1),
}
"""Class -> how to build and call it."""
