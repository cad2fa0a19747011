"""A tiny random pipeline for each row of ``EDITORS``, whose answers are close to the images that it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
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
from support.tiny_newer import flux_2 as reading_flux_2
from support.tiny_newer import long_cat, omni_gen
from support.tiny_pipelines import flux, flux_klein, quiet, qwen_image

SIDE = 64
"""Side of the square crops that suit the tiny models, in pixels, inside ``small_areas``."""
OWN_SHARE = 0.2
"""Share of the model's own pixels in an answer; the rest is the given image, as trained edit models keep it."""


def close(cls: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """A subclass whose answers are close to the images that it is given."""

    def call(self: DiffusionPipeline, *args: Any, **options: Any) -> Any:
        answer = cls.__call__(self, *args, **options)
        given = options.get("input_images") or options["image"]
        images = given if isinstance(given, list) else [given]
        size = answer.images.shape[2], answer.images.shape[1]
        kept = np.stack([np.asarray(image.resize(size), dtype=np.float32) / 255 for image in images])
        answer.images = (1 - OWN_SHARE) * kept + OWN_SHARE * answer.images
        return answer

    return type(f"Close{cls.__name__}", (cls,), {"__call__": call})


def _seeing() -> tuple[Any, torch.nn.Module]:
    """A processor of texts and images, and a text encoder that sees images."""
    processor = _viewing_processor(kind="qwen2_5_vl")
    torch.manual_seed(1)
    return processor, Qwen2_5_VLForConditionalGeneration(
        _viewing_config(processor.tokenizer, 2048, "qwen2_5_vl")
    ).eval()


def qwen_edit(cls: type) -> DiffusionPipeline:
    processor, encoder = _seeing()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    made = {"text_encoder": encoder, "processor": processor, "transformer": transformer.eval()}
    return quiet(cls(**{**qwen_image().components, **made}))


def longcat_edit(cls: type) -> DiffusionPipeline:
    processor, encoder = _seeing()
    processor.image_processor = Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 3136})
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    made = {"text_encoder": encoder, "tokenizer": processor.tokenizer, "text_processor": processor}
    return quiet(cls(**{**long_cat().components, **made, "transformer": transformer.eval()}))


def flux_2(cls: type) -> DiffusionPipeline:
    """FLUX.2 (dev) whose text encoder has as many layers as the call reads."""
    template = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    tokenizer = tokenizer_of(TEXT_TEMPLATE)
    tokenizer.add_tokens([AddedToken(f"[{name}]", special=True) for name in ("IMG", "IMG_BREAK", "IMG_END")])
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, chat_template=template
    )  # fmt: skip
    torch.manual_seed(0)
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 8,
    }  # fmt: skip
    encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval()
    return quiet(cls(**{**reading_flux_2().components, "tokenizer": processor, "text_encoder": encoder}))


def omni_gen_edit(cls: type) -> DiffusionPipeline:
    return quiet(cls(**omni_gen().components))


_BUILDERS: Mapping[str, Callable[[type], DiffusionPipeline]] = {
    "QwenImageEditPipeline": qwen_edit,
    "QwenImageEditPlusPipeline": qwen_edit,
    "QwenImageEditInpaintPipeline": qwen_edit,
    "FluxKontextPipeline": flux,
    "FluxKontextInpaintPipeline": flux,
    "Flux2Pipeline": flux_2,
    "Flux2KleinPipeline": flux_klein,
    "LongCatImageEditPipeline": longcat_edit,
    "OmniGenPipeline": omni_gen_edit,
}
NAMES = tuple(_BUILDERS)
CALLS: Mapping[str, Mapping[str, Any]] = {"Flux2KleinPipeline": {"text_encoder_out_layers": (0, 1, 2)}}
"""Arguments that the tiny pipelines need."""


@functools.cache
def editor(name: str) -> DiffusionPipeline:
    return _BUILDERS[name](close(getattr(diffusers, name)))


_RESIZING = ("qwenimage.pipeline_qwenimage_edit", "qwenimage.pipeline_qwenimage_edit_plus",
             "qwenimage.pipeline_qwenimage_edit_inpaint", "longcat_image.pipeline_longcat_image_edit")  # fmt: skip
"""Modules whose pipelines resize the given image to about a million pixels."""


@contextmanager
def small_areas() -> Iterator[None]:
    """Let the pipelines that resize their images to about a million pixels resize them to ``SIDE`` squared."""
    with ExitStack() as stack:
        for place in _RESIZING:
            module = import_module(f"diffusers.pipelines.{place}")
            own = module.calculate_dimensions
            shrunk = functools.partial(lambda own, area, ratio: own(area * SIDE**2 // 1024**2, ratio), own)
            stack.enter_context(mock.patch.object(module, "calculate_dimensions", shrunk))
        yield


def plain(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Image.Image:
    """An image of smooth shapes, as trained edit models see them."""
    coarse = np.random.default_rng(seed).integers(30, 225, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
