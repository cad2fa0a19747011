"""A tiny random pipeline for each row of ``EDITORS``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest import mock

import diffusers
import torch
from diffusers import DiffusionPipeline
from tokenizers import AddedToken
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from support.tiny_chat_models import TEXT_TEMPLATE, _viewing_config, _viewing_processor, tokenizer_of
from support.tiny_parts import flow, flux_autoencoder
from support.tiny_pipelines import flux, flux_klein, qwen_image, quiet

_PIXTRAL_TEMPLATE = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"


def qwen_edit(cls: type) -> DiffusionPipeline:
    """Qwen-Image's tiny parts with a text encoder that sees images."""
    processor = _viewing_processor(kind="qwen2_5_vl")
    torch.manual_seed(1)
    encoder = Qwen2_5_VLForConditionalGeneration(_viewing_config(processor.tokenizer, 2048, "qwen2_5_vl")).eval()
    parts = qwen_image().components
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    made = {"text_encoder": encoder, "processor": processor, "transformer": transformer.eval()}
    return quiet(cls(**{**parts, **made}))


def longcat_edit(cls: type) -> DiffusionPipeline:
    processor = _viewing_processor(kind="qwen2_5_vl")
    processor.image_processor = Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 3136})
    torch.manual_seed(1)
    encoder = Qwen2_5_VLForConditionalGeneration(_viewing_config(processor.tokenizer, 2048, "qwen2_5_vl")).eval()
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return quiet(
        cls(
            scheduler=flow(), vae=flux_autoencoder(latent=16), text_encoder=encoder, tokenizer=processor.tokenizer,
            text_processor=processor, transformer=transformer.eval(),
        )
    )  # fmt: skip


def pixtral_processor() -> PixtralProcessor:
    tokenizer = tokenizer_of(TEXT_TEMPLATE)
    tokenizer.add_tokens([AddedToken(f"[{name}]", special=True) for name in ("IMG", "IMG_BREAK", "IMG_END")])
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, chat_template=_PIXTRAL_TEMPLATE
    )


def flux_2(cls: type) -> DiffusionPipeline:
    """FLUX.2 (dev); its text encoder has as many layers as the call reads."""
    torch.manual_seed(0)
    processor = pixtral_processor()
    text = {
        "model_type": "mistral", "vocab_size": len(processor.tokenizer), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 8,
    }  # fmt: skip
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=[4, 4, 4, 4],
    )  # fmt: skip
    return quiet(
        cls(
            scheduler=flow(), vae=flux_klein().vae, tokenizer=processor, transformer=transformer.eval(),
            text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)),
        )
    )  # fmt: skip


def omni_gen(cls: type) -> DiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = tokenizer_of(TEXT_TEMPLATE)
    transformer = diffusers.OmniGenTransformer2DModel(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32, num_layers=1,
        in_channels=4, time_step_dim=4, vocab_size=len(tokenizer), pad_token_id=0,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
    )  # fmt: skip
    return quiet(
        cls(transformer=transformer.eval(), scheduler=flow(), vae=flux_autoencoder(4), tokenizer=tokenizer)
    )


_BUILDERS: Mapping[str, Callable[[type], DiffusionPipeline]] = {
    "QwenImageEditPipeline": qwen_edit,
    "QwenImageEditPlusPipeline": qwen_edit,
    "QwenImageEditInpaintPipeline": qwen_edit,
    "FluxKontextPipeline": flux,
    "FluxKontextInpaintPipeline": flux,
    "Flux2Pipeline": flux_2,
    "Flux2KleinPipeline": flux_klein,
    "LongCatImageEditPipeline": longcat_edit,
    "OmniGenPipeline": omni_gen,
}
NAMES = tuple(_BUILDERS)
SIDE = 64
"""Side of the square crops that suit the tiny models, in pixels, inside ``small_areas``."""


@functools.cache
def editor(name: str) -> DiffusionPipeline:
    return _BUILDERS[name](getattr(diffusers, name))


_AREAS = {
    "qwenimage.pipeline_qwenimage_edit": "calculate_dimensions",
    "qwenimage.pipeline_qwenimage_edit_plus": "calculate_dimensions",
    "qwenimage.pipeline_qwenimage_edit_inpaint": "calculate_dimensions",
    "longcat_image.pipeline_longcat_image_edit": "calculate_dimensions",
}


@contextmanager
def small_areas() -> Iterator[None]:
    """Let the pipelines that resize their images to about a million pixels resize them to ``SIDE`` squared."""
    with ExitStack() as stack:
        for place, name in _AREAS.items():
            module = import_module(f"diffusers.pipelines.{place}")
            own = getattr(module, name)
            shrunk = functools.partial(lambda own, area, ratio: own(area * SIDE**2 // 1024**2, ratio), own)
            stack.enter_context(mock.patch.object(module, name, shrunk))
        yield
