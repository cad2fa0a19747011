"""Tiny random pipelines of the families whose text encoders are chat models, as most newer ones have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.guiders import AdaptiveProjectedMixGuidance
from transformers import (
    ByT5Tokenizer,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from support.tiny_chat_models import IMAGE_TEMPLATE, tokenizer_of
from support.tiny_parts import (
    SIDE,
    autoencoder,
    clip_config,
    clip_tokenizer,
    flow,
    flux_2_autoencoder,
    flux_autoencoder,
    qwen3,
    qwen_autoencoder,
    qwen_tokenizer,
    t5_encoder,
    t5_tokenizer,
)
from support.tiny_pipelines import Tiny, quiet


def flux_2() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=True,
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
            scheduler=flow(), vae=flux_2_autoencoder(), text_encoder=Mistral3ForConditionalGeneration(config).eval(),
            tokenizer=processor, transformer=transformer.eval(),
        )
    )  # fmt: skip


def hidream() -> DiffusionPipeline:
    torch.manual_seed(0)
    words = clip_tokenizer()
    config = clip_config(len(words))
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1),
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=flow(), vae=flux_autoencoder(), text_encoder=CLIPTextModelWithProjection(config).eval(),
        tokenizer=words, text_encoder_2=CLIPTextModelWithProjection(config).eval(), tokenizer_2=words,
        text_encoder_3=t5_encoder(), tokenizer_3=t5_tokenizer(), text_encoder_4=LlamaForCausalLM(text).eval(),
        tokenizer_4=qwen_tokenizer(), transformer=transformer.eval(),
    )  # fmt: skip
    pipe.default_sample_size = 16
    return quiet(pipe)


def viewer(cls: type = Qwen2_5_VLForConditionalGeneration, layers: int = 2) -> torch.nn.Module:
    """A text encoder that could also take images."""
    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    if cls is Qwen2_5_VLForConditionalGeneration:
        return cls(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
    more = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return cls(Qwen3VLConfig(text_config=text | {"head_dim": 8}, vision_config=vision | more)).eval()


def qwen3_vl_processor() -> Qwen3VLProcessor:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, temporal_patch_size=2),
        tokenizer=tokenizer_of(IMAGE_TEMPLATE), video_processor=Qwen3VLVideoProcessor(), chat_template=IMAGE_TEMPLATE,
    )  # fmt: skip


def hunyuan_image() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), text_embed_dim=16, text_embed_2_dim=32, rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32), layers_per_block=1,
        spatial_compression_ratio=4, sample_size=SIDE, scaling_factor=0.7,
    )  # fmt: skip
    return quiet(
        diffusers.HunyuanImagePipeline(
            scheduler=flow(), vae=vae.eval(), text_encoder=viewer(), tokenizer=qwen_tokenizer(),
            text_encoder_2=t5_encoder(), tokenizer_2=ByT5Tokenizer(), transformer=transformer.eval(),
            guider=AdaptiveProjectedMixGuidance(), ocr_guider=AdaptiveProjectedMixGuidance(guidance_scale=5.0),
        )
    )  # fmt: skip


def ovis() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return quiet(
        diffusers.OvisImagePipeline(
            scheduler=flow(), vae=flux_autoencoder(), text_encoder=qwen3(Qwen3Model), tokenizer=qwen_tokenizer(),
            transformer=transformer.eval(),
        )
    )  # fmt: skip


def krea_2() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return quiet(
        diffusers.Krea2Pipeline(
            scheduler=flow(), vae=qwen_autoencoder(), text_encoder=viewer(Qwen3VLModel), tokenizer=qwen_tokenizer(),
            transformer=transformer.eval(), text_encoder_select_layers=(0, 1),
        )
    )  # fmt: skip


def long_cat() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=tokenizer_of(IMAGE_TEMPLATE),
        video_processor=Qwen2VLVideoProcessor(), chat_template=IMAGE_TEMPLATE,
    )  # fmt: skip
    return quiet(
        diffusers.LongCatImagePipeline(
            scheduler=flow(), vae=flux_autoencoder(latent=16), text_encoder=viewer(), tokenizer=qwen_tokenizer(),
            text_processor=processor, transformer=transformer.eval(),
        )
    )  # fmt: skip


def omni_gen() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.OmniGenTransformer2DModel(
        in_channels=4, patch_size=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32,
        num_layers=1, pad_token_id=0, vocab_size=300, max_position_embeddings=1000,
        original_max_position_embeddings=1000, pos_embed_max_size=64, time_step_dim=8,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
    )  # fmt: skip
    return quiet(
        diffusers.OmniGenPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
            vae=autoencoder(4), tokenizer=qwen_tokenizer(), transformer=transformer.eval(),
        )
    )  # fmt: skip


def bria_fibo_2() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.BriaFibo2Transformer2DModel(
        in_channels=4, patch_size=2, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=48,
        injection_layer_ids=(0, 1), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=4,
        gist_min_text_len=16, gist_max_text_len=64, axes_dims=(4, 6, 6), axes_lens=(600, 64, 64),
    )  # fmt: skip
    return quiet(
        diffusers.BriaFibo2Pipeline(
            scheduler=flow(), vae=flux_2_autoencoder(), text_encoder=viewer(Qwen3VLForConditionalGeneration, layers=36),
            processor=qwen3_vl_processor(), transformer=transformer.eval(),
        )
    )  # fmt: skip


def dream_lite() -> DiffusionPipeline:
    torch.manual_seed(0)
    unet = diffusers.DreamLiteUNetModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=16, attention_head_dim=8, ff_mult=2,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3,
    )  # fmt: skip
    return quiet(
        diffusers.DreamLitePipeline(
            scheduler=flow(), vae=vae.eval(), text_encoder=viewer(Qwen3VLForConditionalGeneration),
            tokenizer=qwen_tokenizer(), processor=qwen3_vl_processor(), unet=unet.eval(),
        )
    )  # fmt: skip


_FLUX_2: Mapping[str, Any] = {"max_sequence_length": 256, "text_encoder_out_layers": (0, 1, 2)}

NEWER: Mapping[str, Tiny] = {
    "Flux2Pipeline": Tiny(build=flux_2, call=_FLUX_2, native=32, rows=1, rows_with_negative=1),
    "HiDreamImagePipeline": Tiny(build=hidream, call={"max_sequence_length": 48}, native=32),
    "HunyuanImagePipeline": Tiny(build=hunyuan_image, native=32),
    "OvisImagePipeline": Tiny(build=ovis, call={"max_sequence_length": 192}, native=32),
    "Krea2Pipeline": Tiny(build=krea_2, call={"max_sequence_length": 192}, native=32),
    # Without guidance: with it, diffusers fails for several prompts without as many negative prompts.
    "LongCatImagePipeline": Tiny(
        build=long_cat, call={"enable_prompt_rewrite": False, "guidance_scale": 1.0}, native=32
    ),
    "OmniGenPipeline": Tiny(build=omni_gen, native=32),
    "DreamLitePipeline": Tiny(build=dream_lite, native=32),
    "BriaFibo2Pipeline": Tiny(build=bria_fibo_2, native=32),
}
"""Class -> how to build and call it."""
