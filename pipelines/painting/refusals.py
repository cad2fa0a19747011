"""Kinds of pipelines that refiner cannot use: those of other kinds, those without images, and those without a start."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING

from refiner.errors import ConfigError
from refiner.pipelines.editing.editors import edits

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_MEDIA = {
    "videos": {"video", "videos", "frames", "fps"},
    "sound": {"audio", "lyrics"},
}
"""What a pipeline generates, and the words in its name, or in those of its call's parameters, that show it."""

_BASE = "pass a text-to-image pipeline, such as StableDiffusionXLPipeline"

_EDITORS = ("QwenImageEdit", "QwenImageLayered", "LongCatImageEdit")
"""How the names of classes begin whose call fails without an image, although its signature makes it an option."""


def refuse_modular(pipe: object) -> None:
    """Raise ConfigError if a pipeline is a ``ModularPipeline``, whose blocks have no call to generate and inpaint."""
    if any(cls.__name__ == "ModularPipeline" for cls in type(pipe).__mro__):
        raise ConfigError(
            f"{type(pipe).__name__} is a modular pipeline, and refiner uses only pipelines that are a "
            "DiffusionPipeline: load another model with DiffusionPipeline.from_pretrained, such as FLUX.1 or FLUX.2."
        )


def inpainting_class(cls: type) -> str:
    """Return the name of the inpainting class in diffusers that is nearest to a class; without one, that of SDXL."""
    import diffusers

    words = re.findall("[A-Z][a-z0-9]*", cls.__name__.removesuffix("Pipeline"))
    names = ("".join(words[:count]) + "InpaintPipeline" for count in range(len(words), 0, -1))
    return next((name for name in names if hasattr(diffusers, name)), "StableDiffusionXLInpaintPipeline")


def refuse_other_media(pipe: DiffusionPipeline, parameters: Collection[str]) -> None:
    """Refuse a pipeline that generates something other than images.

    Args:
        pipe: the pipeline.
        parameters: names of the parameters of its call.

    Raises:
        ConfigError: it generates videos or sound.
    """
    words = {word for name in parameters for word in name.split("_")}
    words |= {word.lower() for word in re.findall("[A-Z][a-z]+", type(pipe).__name__)}
    for made, signs in _MEDIA.items():
        if words & signs:
            frames = "; frames of a video can be refined one at a time, as image=" if made == "videos" else ""
            raise ConfigError(f"{type(pipe).__name__} generates {made}, and refiner refines images: {_BASE}{frames}.")


def refuse_image_to_image(pipe: DiffusionPipeline, parameters: Mapping[str, Parameter]) -> None:
    """Refuse a pipeline that needs an image to start from, as the one that generates images.

    Pipelines that can inpaint are not refused: they generate an image by inpainting an empty one. Neither are those
    that take an image as an option, such as a reference or a control image.

    Args:
        pipe: the pipeline.
        parameters: the parameters of its call, by name.

    Raises:
        ConfigError: it changes, enlarges or re-draws a given image.
    """
    if "image" not in parameters or parameters.keys() & {"mask", "mask_image"}:
        return
    if any(cls.__name__.startswith(_EDITORS) for cls in type(pipe).__mro__):
        advised = "this one" if edits(pipe) else inpainting_class(type(pipe))
        raise ConfigError(
            f"{type(pipe).__name__} edits a given image and cannot generate one from a prompt alone: {_BASE}, and "
            f"{advised} as inpainter=."
        )
    for shown, what, advice in _needs(pipe, parameters):
        if shown:
            raise ConfigError(
                f"{type(pipe).__name__} {what} and cannot generate one from a prompt alone: {_BASE}{advice}."
            )


def _needs(pipe: DiffusionPipeline, parameters: Mapping[str, Parameter]) -> Iterator[tuple[bool, str, str]]:
    """Whether the pipeline is of a kind that needs an image, what it does with the image, and further advice."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    only_latents = unet is None or vae is None or unet.config.in_channels == vae.config.latent_channels
    enlarges = any(part in cls.__name__ for cls in type(pipe).__mro__ for part in ("Upscale", "SuperResolution"))
    yield enlarges, "enlarges a given image", ", and enlarge the refined image afterwards"
    yield "depth_map" in parameters, "draws a given image again by its depth", ""
    later = ", and this one as second_stage=" if "strength" in parameters else ""
    needed = not only_latents or "strength" in parameters or parameters["image"].default is Parameter.empty
    yield needed, "changes a given image", later
