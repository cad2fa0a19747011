"""A tiny random pipeline for each row of ``FAMILIES``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
from PIL import Image

from support.tiny_newer import NEWER
from support.tiny_pipelines import (
    TINY,
    Tiny,
    chroma,
    flux,
    flux_klein,
    hunyuan_dit,
    kolors,
    pixart_sigma,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image,
)


def noise(height: int = 64, width: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


def _as(
    build: Callable[..., Any], name: str, like: str, /, *, call: Mapping[str, Any] | None = None, **options: Any
) -> Tiny:
    """A row of another class with the parts of a family."""
    made = functools.partial(build, getattr(diffusers, name), **options)
    return replace(TINY[like], build=made, call={**TINY[like].call, **(call or {})})


_EDGES = noise(seed=2)
_OWN, _NAMED = {"image": _EDGES}, {"control_image": _EDGES}
_MODES = {"control_image": [_EDGES, noise(seed=3)], "control_mode": [0, 2]}

_GENERATING: Mapping[str, str] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "Flux2KleinPipeline": "flux-klein",
    "QwenImagePipeline": "qwen-image",
    "ZImagePipeline": "z-image",
    "ChromaPipeline": "chroma",
    "PixArtSigmaPipeline": "pixart-sigma",
    "SanaPipeline": "sana",
    "KolorsPipeline": "kolors",
    "HunyuanDiTPipeline": "hunyuan-dit",
    "AuraFlowPipeline": "aura-flow",
    "Lumina2Pipeline": "lumina2",
    "CogView4Pipeline": "cogview4",
}
_SD, _XL, _SD3 = stable_diffusion, stable_diffusion_xl, stable_diffusion_3

_PERTURBED: Mapping[str, tuple[Callable[..., Any], str, Mapping[str, Any]]] = {
    "StableDiffusionPAGPipeline": (_SD, "sd", {}),
    "StableDiffusionPAGInpaintPipeline": (_SD, "sd", {}),
    "StableDiffusionControlNetPAGPipeline": (_SD, "sd", {"call": _OWN}),
    "StableDiffusionControlNetPAGInpaintPipeline": (_SD, "sd", {"call": _NAMED}),
    "StableDiffusionXLPAGPipeline": (_XL, "sdxl", {}),
    "StableDiffusionXLPAGInpaintPipeline": (_XL, "sdxl", {}),
    "StableDiffusionXLControlNetPAGPipeline": (_XL, "sdxl", {"call": _OWN}),
    "StableDiffusion3PAGPipeline": (_SD3, "sd3", {}),
    "PixArtSigmaPAGPipeline": (pixart_sigma, "pixart-sigma", {"layers": 2}),
    "SanaPAGPipeline": (sana, "sana", {}),
    "KolorsPAGPipeline": (kolors, "kolors", {}),
    "HunyuanDiTPAGPipeline": (hunyuan_dit, "hunyuan-dit", {}),
}
"""Classes with perturbed-attention guidance."""

ROWS: Mapping[str, Tiny] = {
    **{name: TINY[short] for name, short in _GENERATING.items()},
    "StableDiffusionInpaintPipeline": _as(_SD, "StableDiffusionInpaintPipeline", "sd", nine=True),
    "StableDiffusionControlNetPipeline": _as(_SD, "StableDiffusionControlNetPipeline", "sd", call=_OWN),
    "StableDiffusionControlNetInpaintPipeline": _as(_SD, "StableDiffusionControlNetInpaintPipeline", "sd", call=_NAMED),
    "StableDiffusionXLImg2ImgPipeline": _as(
        _XL, "StableDiffusionXLImg2ImgPipeline", "sdxl", requires_aesthetics_score=True
    ),
    "StableDiffusionXLInpaintPipeline": _as(_XL, "StableDiffusionXLInpaintPipeline", "sdxl"),
    "StableDiffusionXLControlNetPipeline": _as(_XL, "StableDiffusionXLControlNetPipeline", "sdxl", call=_OWN),
    "StableDiffusionXLControlNetInpaintPipeline": _as(
        _XL, "StableDiffusionXLControlNetInpaintPipeline", "sdxl", call=_NAMED
    ),
    "StableDiffusion3InpaintPipeline": _as(_SD3, "StableDiffusion3InpaintPipeline", "sd3"),
    "StableDiffusion3ControlNetPipeline": _as(_SD3, "StableDiffusion3ControlNetPipeline", "sd3", call=_NAMED),
    "StableDiffusionXLControlNetUnionPipeline": _as(
        _XL, "StableDiffusionXLControlNetUnionPipeline", "sdxl", call=_MODES
    ),
    "StableDiffusionXLControlNetUnionInpaintPipeline": _as(
        _XL, "StableDiffusionXLControlNetUnionInpaintPipeline", "sdxl", call=_MODES
    ),
    "FluxInpaintPipeline": _as(flux, "FluxInpaintPipeline", "flux"),
    "FluxControlNetPipeline": _as(flux, "FluxControlNetPipeline", "flux", call=_NAMED),
    "FluxControlNetInpaintPipeline": _as(flux, "FluxControlNetInpaintPipeline", "flux", call=_NAMED),
    "FluxFillPipeline": _as(flux, "FluxFillPipeline", "flux", channels=3 * 16),
    "FluxKontextInpaintPipeline": _as(flux, "FluxKontextInpaintPipeline", "flux"),
    "FluxKontextPipeline": _as(flux, "FluxKontextPipeline", "flux", call={"max_area": 32 * 32}),
    "Flux2KleinInpaintPipeline": _as(flux_klein, "Flux2KleinInpaintPipeline", "flux-klein"),
    "QwenImageInpaintPipeline": _as(qwen_image, "QwenImageInpaintPipeline", "qwen-image"),
    "ZImageInpaintPipeline": _as(z_image, "ZImageInpaintPipeline", "z-image"),
    "ChromaInpaintPipeline": _as(chroma, "ChromaInpaintPipeline", "chroma"),
    **NEWER,
    **{name: _as(build, name, like, **options) for name, (build, like, options) in _PERTURBED.items()},
}
"""Class -> how to build and call it. Classes with a ControlNet are called with a control image."""
