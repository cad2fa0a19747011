"""Tiny random pipelines of every supported family, built from configs without the hub."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import diffusers
import torch
from diffusers import (
    AutoencoderDC,
    ControlNetModel,
    ControlNetUnionModel,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    SD3ControlNetModel,
    UNet2DConditionModel,
)
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from diffusers.utils import logging
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    GlmConfig,
    GlmModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3ForCausalLM,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

from support.tiny_parts import (
    SIDE,
    autoencoder,
    bert_tokenizer,
    chatglm_words,
    clip_config,
    clip_tokenizer,
    flow,
    flux_2_autoencoder,
    flux_autoencoder,
    gemma2,
    gemma_tokenizer,
    glm_tokenizer,
    qwen3,
    qwen_autoencoder,
    qwen_tokenizer,
    t5_encoder,
    t5_tokenizer,
)

torch.set_num_threads(1)
logging.set_verbosity_error()
Pipe = TypeVar("Pipe", bound=DiffusionPipeline)


def quiet(pipe: Pipe) -> Pipe:
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Stable Diffusion and its kin


def unet(**options: Any) -> UNet2DConditionModel:
    usual = {
        "block_out_channels": (16, 32), "layers_per_block": 1, "sample_size": SIDE // 4, "in_channels": 4,
        "out_channels": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8, "attention_head_dim": 8,
    }  # fmt: skip
    return UNet2DConditionModel(**usual | options).eval()


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Give a ControlNet an effect: its last layers are zero at the start, so noise is added to all weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def controlnet(**options: Any) -> ControlNetModel:
    return stirred(ControlNetModel.from_unet(unet(**options), conditioning_embedding_out_channels=(8, 8, 8)))


def controlnet_union(**options: Any) -> ControlNetUnionModel:
    """A ControlNet for three kinds of control images."""
    inner = {
        name: value
        for name, value in unet(**options).config.items()
        if name in inspect.signature(ControlNetUnionModel).parameters
    }
    return stirred(
        ControlNetUnionModel(
            **inner
            | {
                "conditioning_embedding_out_channels": (8, 8, 8),
                "num_control_type": 3,
                "num_trans_channel": 16,
                "num_trans_head": 2,
                "num_proj_channel": 16,
            }
        )
    )


def ddim() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, steps_offset=1, prediction_type="v_prediction")


def stable_diffusion(cls: type = diffusers.StableDiffusionPipeline, **options: Any) -> DiffusionPipeline:
    torch.manual_seed(0)
    words = clip_tokenizer()
    inner = {"in_channels": 9} if options.pop("nine", False) else {}
    if "ControlNet" in cls.__name__:
        options["controlnet"] = controlnet(cross_attention_dim=32)
    return quiet(
        cls(
            vae=autoencoder(), text_encoder=CLIPTextModel(clip_config(len(words))).eval(), tokenizer=words,
            unet=unet(cross_attention_dim=32, **inner), scheduler=ddim(), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False, **options,
        )
    )  # fmt: skip


def stable_diffusion_xl(cls: type = diffusers.StableDiffusionXLPipeline, **options: Any) -> DiffusionPipeline:
    torch.manual_seed(0)
    words = clip_tokenizer()
    config = clip_config(len(words))
    refiner = bool(options.get("requires_aesthetics_score"))
    inner = {
        "cross_attention_dim": 32 if refiner else 64, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": (5 if refiner else 6) * 8 + 32,
    }  # fmt: skip
    if "ControlNetUnion" in cls.__name__:
        options["controlnet"] = controlnet_union(**inner)
    elif "ControlNet" in cls.__name__:
        options["controlnet"] = controlnet(**inner)
    return quiet(
        cls(
            vae=autoencoder(), text_encoder=None if refiner else CLIPTextModel(config).eval(),
            text_encoder_2=CLIPTextModelWithProjection(config).eval(), tokenizer=None if refiner else words,
            tokenizer_2=words, unet=unet(**inner), scheduler=ddim(), add_watermarker=False, **options,
        )
    )  # fmt: skip


def stable_diffusion_3(cls: type = diffusers.StableDiffusion3Pipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    words = clip_tokenizer()
    config = clip_config(len(words))
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
    )  # fmt: skip
    options: dict[str, Any] = {}
    if "ControlNet" in cls.__name__:
        like = copy.deepcopy(transformer)  # whose config is changed
        model = SD3ControlNetModel.from_transformer(like, num_layers=1, num_extra_conditioning_channels=0)
        options["controlnet"] = stirred(model)
    return quiet(
        cls(
            transformer=transformer.eval(), scheduler=flow(), vae=flux_autoencoder(latent=16),
            text_encoder=CLIPTextModelWithProjection(config).eval(), tokenizer=words,
            text_encoder_2=CLIPTextModelWithProjection(config).eval(), tokenizer_2=words,
            text_encoder_3=t5_encoder(width=64), tokenizer_3=t5_tokenizer(), **options,
        )
    )  # fmt: skip


# FLUX and its kin


def flux(cls: type = diffusers.FluxPipeline, channels: int = 16, **options: Any) -> DiffusionPipeline:
    torch.manual_seed(0)
    words = clip_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=channels, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
        guidance_embeds=cls is not diffusers.FluxPipeline,
    )  # fmt: skip
    if "ControlNet" in cls.__name__:
        model = FluxControlNetModel.from_transformer(transformer, attention_head_dim=16, num_attention_heads=2)
        options["controlnet"] = stirred(model)
    return quiet(
        cls(
            scheduler=flow(), vae=flux_autoencoder(), text_encoder=CLIPTextModel(clip_config(len(words))).eval(),
            tokenizer=words, text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(), transformer=transformer.eval(),
            **options,
        )
    )  # fmt: skip


def flux_klein(cls: type = diffusers.Flux2KleinPipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    return quiet(
        cls(
            scheduler=flow(), vae=flux_2_autoencoder(), text_encoder=qwen3(Qwen3ForCausalLM),
            tokenizer=qwen_tokenizer(), transformer=transformer.eval(),
        )
    )  # fmt: skip


def chroma(cls: type = diffusers.ChromaPipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=[4, 4, 8], approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    return quiet(
        cls(
            scheduler=flow(), vae=flux_autoencoder(), text_encoder=t5_encoder(), tokenizer=t5_tokenizer(),
            transformer=transformer.eval(),
        )
    )  # fmt: skip


def qwen_image(cls: type = diffusers.QwenImagePipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return quiet(
        cls(
            scheduler=flow(), vae=qwen_autoencoder(), tokenizer=qwen_tokenizer(), transformer=transformer.eval(),
            text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        )
    )  # fmt: skip


def z_image(cls: type = diffusers.ZImagePipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, qk_norm=True, cap_feat_dim=16, rope_theta=256.0, axes_dims=[8, 4, 4], axes_lens=[600, 64, 64],
    )  # fmt: skip
    with torch.no_grad():  # they come uninitialised
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    return quiet(
        cls(
            scheduler=flow(), vae=flux_autoencoder(), text_encoder=qwen3(Qwen3Model), tokenizer=qwen_tokenizer(),
            transformer=transformer.eval(),
        )
    )  # fmt: skip


# Families without an inpainting class


def pixart_sigma(cls: type = diffusers.PixArtSigmaPipeline, layers: int = 1) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=layers, patch_size=2, attention_head_dim=8, num_attention_heads=3,
        caption_channels=32, in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True,
    )  # fmt: skip
    return quiet(
        cls(
            tokenizer=t5_tokenizer(), text_encoder=t5_encoder(), vae=autoencoder(), transformer=transformer.eval(),
            scheduler=diffusers.DPMSolverMultistepScheduler(),
        )
    )  # fmt: skip


def sana(cls: type = diffusers.SanaPipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=16,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407,
    )  # fmt: skip
    return quiet(
        cls(
            tokenizer=gemma_tokenizer(), text_encoder=gemma2(), vae=vae.eval(), transformer=transformer.eval(),
            scheduler=diffusers.DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    )  # fmt: skip


def kolors(cls: type = diffusers.KolorsPipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=128, hidden_size=32, ffn_hidden_size=32, kv_channels=8, num_attention_heads=4,
        seq_length=256, multi_query_attention=True, multi_query_group_num=2, rmsnorm=True, add_qkv_bias=True,
        original_rope=True,
    )  # fmt: skip
    text_encoder = ChatGLMModel(config).eval()
    with torch.no_grad():  # it comes uninitialised
        for parameter in text_encoder.parameters():
            parameter.normal_(0.5, 0.1)
    inner = {
        "cross_attention_dim": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }  # fmt: skip
    return quiet(
        cls(
            vae=autoencoder(), text_encoder=text_encoder, unet=unet(**inner),
            tokenizer=ChatGLMTokenizer(chatglm_words(), model_max_length=256),
            scheduler=diffusers.EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
        )
    )  # fmt: skip


def hunyuan_dit(cls: type = diffusers.HunyuanDiTPipeline) -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
        activation_fn="gelu-approximate",
    )  # fmt: skip
    bert = BertConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37)
    return quiet(
        cls(
            vae=autoencoder(4), text_encoder=BertModel(bert).eval(), tokenizer=bert_tokenizer(),
            transformer=transformer.eval(), scheduler=diffusers.DDPMScheduler(), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False, text_encoder_2=t5_encoder(),
            tokenizer_2=t5_tokenizer(),
        )
    )  # fmt: skip


def aura_flow() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, out_channels=4,
        pos_embed_max_size=256,
    )  # fmt: skip
    return quiet(
        diffusers.AuraFlowPipeline(
            tokenizer=t5_tokenizer(), text_encoder=t5_encoder(UMT5EncoderModel, UMT5Config), vae=autoencoder(2),
            transformer=transformer.eval(), scheduler=flow(),
        )
    )  # fmt: skip


def lumina2() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(600, 64, 64),
        cap_feat_dim=8,
    )  # fmt: skip
    return quiet(
        diffusers.Lumina2Pipeline(
            transformer=transformer.eval(), scheduler=flow(), vae=flux_autoencoder(4), text_encoder=gemma2(),
            tokenizer=gemma_tokenizer(),
        )
    )  # fmt: skip


def cogview4() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2, out_channels=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, sample_size=16,
    )  # fmt: skip
    text = GlmConfig(
        vocab_size=128, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return quiet(
        diffusers.CogView4Pipeline(
            tokenizer=glm_tokenizer(), text_encoder=GlmModel(text).eval(), vae=autoencoder(2),
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(
                base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
            ),
        )
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """How to build and call a family."""

    build: Callable[[], DiffusionPipeline]
    call: Mapping[str, Any] = field(default_factory=dict)
    native: int | None = None
    rows: int = 2
    """Denoiser rows of one image in one step without a negative prompt: 2 with guidance, 1 without."""
    rows_with_negative: int = 2


_SHORT = {"max_sequence_length": 48}
_NO_BINS = {"use_resolution_binning": False}

TINY: Mapping[str, Tiny] = {
    "sd": Tiny(build=stable_diffusion),
    "sd-inpaint": Tiny(build=functools.partial(stable_diffusion, diffusers.StableDiffusionInpaintPipeline, nine=True)),
    "sdxl": Tiny(build=stable_diffusion_xl),
    "sd3": Tiny(build=stable_diffusion_3, call=_SHORT, native=32),
    "flux": Tiny(build=flux, call=_SHORT, native=32, rows=1, rows_with_negative=1),
    "flux-klein": Tiny(build=flux_klein, call=_SHORT | {"text_encoder_out_layers": (0, 1, 2)}, native=32),
    "qwen-image": Tiny(build=qwen_image, native=32, rows=1),
    "z-image": Tiny(build=z_image, call=_SHORT, native=32),
    "chroma": Tiny(build=chroma, call=_SHORT, native=32),
    "pixart-sigma": Tiny(build=pixart_sigma, call=_SHORT | _NO_BINS | {"clean_caption": False}),
    "sana": Tiny(build=sana, call=_SHORT | _NO_BINS | {"complex_human_instruction": None}, native=32),
    "kolors": Tiny(build=kolors),
    "hunyuan-dit": Tiny(build=hunyuan_dit, call=_NO_BINS),
    "aura-flow": Tiny(build=aura_flow, call=_SHORT, native=32),
    "lumina2": Tiny(build=lumina2, call=_SHORT),
    "cogview4": Tiny(build=cogview4),
}
"""Short name -> family."""
