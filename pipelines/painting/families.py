"""Which pipelines of diffusers are served, and what differs between them. A new family is a new row of ``FAMILIES``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Fixed = Callable[[int, int], Mapping[str, Any]]
"""From height and width in pixels to arguments of a call."""


def _nothing(_height: int, _width: int) -> Mapping[str, Any]:
    return {}


def _size_as_asked(height: int, width: int) -> Mapping[str, Any]:
    """FLUX Kontext moves to its preferred sizes, unless told otherwise."""
    return {"max_area": height * width, "_auto_resize": False}


def _no_bins(_height: int, _width: int) -> Mapping[str, Any]:
    """Some families move to the nearest of a list of sizes, unless told otherwise."""
    return {"use_resolution_binning": False}


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between families of text-to-image pipelines."""

    inpaint: str | None = None
    """Name of the class in diffusers that repaints; None: the pipeline's own. If it takes no mask, latents are blended.
    """
    multiple: int = 8
    """Heights and widths are multiples of this many pixels."""
    native: int | None = None
    """Side of the square crops that suit the model, in pixels; None: that of its pictures, as the pipeline says."""
    mask_cells: int = 1
    """Side of the squares of latent cells that are masked as one."""
    fixed: Fixed = _nothing
    """Arguments of the inpainting call that keep it at the size it is given."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the denoiser's config that the inpainting class asks for, and their values where they are missing."""
    longest: Callable[[DiffusionPipeline], int] | None = None
    """Longest side that the denoiser has positions for, in its patches of latent cells; None: any."""
    one_length: bool = False
    """Whether prompts of one batch must have equally many tokens, lest padding change the picture."""
    reads: int | None = None
    """Tokens that are read at most, where the call has no ``max_sequence_length``; None: as the tokenizers say."""
    framing: int = 0
    """Tokens that a chat template puts around a prompt, at most; they count towards ``max_sequence_length``."""
    blends: bool = True
    """Whether the class that repaints lays the known latents over whatever is not masked after every step."""
    control: str | None = None
    """Name under which the generator's call takes ``control_image``."""
    controlled: str | None = None
    """Name of the class that repaints where there is a ``control_image``; None: as without."""
    alone: bool = False
    """Whether calls draw random numbers that no generator gives, so that each row must have a call of its own."""


def _square(pipe: DiffusionPipeline) -> int:
    return math.isqrt(pipe.transformer.config.pos_embed_max_size)


def _line(pipe: DiffusionPipeline) -> int:
    return int(pipe.transformer.config.pos_embed_max_size)


_SD = Family(inpaint="StableDiffusionInpaintPipeline")
_SDXL = Family(inpaint="StableDiffusionXLInpaintPipeline")
# Not StableDiffusion3InpaintPipeline: up to diffusers 0.42 it decodes without the autoencoder's shift, a tint.
_SD3 = Family(multiple=16, longest=_line)
_FLUX = Family(inpaint="FluxInpaintPipeline", multiple=16)
# Klein's call scales down what is larger than 1024 x 1024: crops stay below that, however their sides are rounded.
_KLEIN = Family(inpaint="Flux2KleinInpaintPipeline", multiple=16, mask_cells=2, native=992, framing=16)
_QWEN = Family(inpaint="QwenImageInpaintPipeline", multiple=16, framing=16)
_Z_IMAGE = Family(inpaint="ZImageInpaintPipeline", multiple=16, native=1024, framing=16)
_CHROMA = Family(inpaint="ChromaInpaintPipeline", multiple=16, asked={"guidance_embeds": False})

FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": Family(
        inpaint=_SD.inpaint, control="image", controlled="StableDiffusionControlNetInpaintPipeline"
    ),
    "StableDiffusionControlNetInpaintPipeline": _SD,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLImg2ImgPipeline": _SDXL,
    "StableDiffusionXLInpaintPipeline": _SDXL,
    "StableDiffusionXLControlNetPipeline": Family(
        inpaint=_SDXL.inpaint, control="image", controlled="StableDiffusionXLControlNetInpaintPipeline"
    ),
    "StableDiffusionXLControlNetInpaintPipeline": _SDXL,
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusion3InpaintPipeline": _SD3,
    "StableDiffusion3ControlNetPipeline": Family(
        inpaint="StableDiffusion3Pipeline",
        multiple=16,
        longest=_line,
        alone=True,
        controlled="StableDiffusion3ControlNetPipeline",
    ),
    "FluxPipeline": _FLUX,
    "FluxInpaintPipeline": _FLUX,
    "FluxControlNetPipeline": Family(inpaint=_FLUX.inpaint, multiple=16, controlled="FluxControlNetInpaintPipeline"),
    "FluxControlNetInpaintPipeline": _FLUX,
    "FluxFillPipeline": Family(multiple=16, blends=False),
    "FluxKontextInpaintPipeline": Family(multiple=16, fixed=_size_as_asked),
    "Flux2KleinPipeline": _KLEIN,
    "Flux2KleinInpaintPipeline": _KLEIN,
    "QwenImagePipeline": _QWEN,
    "QwenImageInpaintPipeline": _QWEN,
    "ZImagePipeline": _Z_IMAGE,
    "ZImageInpaintPipeline": _Z_IMAGE,
    "ChromaPipeline": _CHROMA,
    "ChromaInpaintPipeline": _CHROMA,
    "PixArtSigmaPipeline": Family(multiple=16, fixed=_no_bins),
    "SanaPipeline": Family(multiple=32, fixed=_no_bins),
    "KolorsPipeline": Family(),
    "HunyuanDiTPipeline": Family(multiple=16, fixed=_no_bins, reads=256),
    "AuraFlowPipeline": Family(multiple=16, native=1024, longest=_square),
    "Lumina2Pipeline": Family(multiple=16),
    "CogView4Pipeline": Family(multiple=16, one_length=True),
}
"""By the name of a class in diffusers; subclasses belong to the family of their nearest ancestor."""

_STRANGER = Family(multiple=16, blends=False)
"""A pipeline of no known family: good for generating where another pipeline inpaints, or for inpainting as it is."""


def known_family(cls: type) -> Family | None:
    """The family of a pipeline's class; None: none of its ancestors is in ``FAMILIES``."""
    return next((FAMILIES[ancestor.__name__] for ancestor in cls.__mro__ if ancestor.__name__ in FAMILIES), None)


def family_of(pipe: DiffusionPipeline) -> Family:
    """What is known about a pipeline; of one of no known family, what holds for most."""
    return known_family(type(pipe)) or _STRANGER


def takes(pipe: DiffusionPipeline) -> Mapping[str, inspect.Parameter]:
    """The parameters of a pipeline's call; of a subclass that hands on whatever it is given, also its ancestor's."""
    known: dict[str, inspect.Parameter] = {}
    for call in (vars(cls)["__call__"] for cls in type(pipe).__mro__ if "__call__" in vars(cls)):
        parameters = inspect.signature(call).parameters
        known = {**parameters, **known}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return known


def inpaints(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline's own call repaints what is masked."""
    return {"prompt", "image", "mask_image"} <= takes(pipe).keys()


def mixes_strengths(pipe: DiffusionPipeline) -> bool:
    """Whether parts of a picture, and pictures of a batch, can be repainted with different strengths in one call."""
    unet = getattr(pipe, "unet", None)
    nine = unet is not None and unet.config.in_channels != pipe.vae.config.latent_channels
    return family_of(pipe).blends and not nine


def denoiser_of(pipe: DiffusionPipeline) -> torch.nn.Module:
    """The network that is called at every step."""
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def cell_of(pipe: DiffusionPipeline) -> int:
    """Side of the squares that a mask consists of, in pixels."""
    return int(pipe.vae_scale_factor) * family_of(pipe).mask_cells


def multiple_of(pipe: DiffusionPipeline) -> int:
    """Heights and widths are multiples of this many pixels."""
    return math.lcm(family_of(pipe).multiple, cell_of(pipe))


def longest_side(pipe: DiffusionPipeline) -> int | None:
    """Longest side that a pipeline can paint, in pixels; None: any."""
    longest = family_of(pipe).longest
    if longest is None:
        return None
    return longest(pipe) * int(pipe.transformer.config.patch_size) * int(pipe.vae_scale_factor)


def native_side(pipe: DiffusionPipeline) -> int:
    """Side of the square pictures that a pipeline's model was trained on, in pixels."""
    fixed = family_of(pipe).native
    if fixed is not None:
        return fixed
    config: Any = denoiser_of(pipe).config
    side = getattr(pipe, "default_sample_size", None) or config.sample_size
    return (side if isinstance(side, int) else max(side)) * int(pipe.vae_scale_factor)


def check_pipelines(
    pipe: DiffusionPipeline, inpainter: DiffusionPipeline | None, second_stage: DiffusionPipeline | None
) -> None:
    """Refuse what cannot paint from text, repaint a part of a picture, or finish what another pipeline began.

    Raises:
        ConfigError: with what to do instead.
    """
    _check_parts(pipe)
    if inpainter is not None:
        _check_parts(inpainter)
    repainter = pipe if inpainter is None else inpainter
    if known_family(type(repainter)) is None and not inpaints(repainter):
        raise ConfigError(
            f"Expected a pipeline that takes prompt, image and mask_image, or one of {', '.join(FAMILIES)}, got "
            f"{type(repainter).__name__}: pass one that can repaint as inpainter=."
        )
    if second_stage is not None and not {"prompt", "image", "generator"} <= takes(second_stage).keys():
        raise ConfigError(
            f"Expected a second stage that takes prompt and image, got {type(second_stage).__name__}: pass an "
            "image-to-image pipeline, such as StableDiffusionXLImg2ImgPipeline."
        )


def _check_parts(pipe: DiffusionPipeline) -> None:
    name = type(pipe).__name__
    if "prompt" not in takes(pipe) or not (hasattr(pipe, "unet") or hasattr(pipe, "transformer")):
        raise ConfigError(f"Expected a text-to-image pipeline, got {name}: pass one that paints from a prompt.")
    if getattr(pipe, "vae", None) is None or not tokenizers_of(pipe):
        raise ConfigError(f"Expected {name} with its VAE and a tokenizer, got one without: load it with all its parts.")
    unet = getattr(pipe, "unet", None)
    if unet is not None and not inpaints(pipe) and unet.config.in_channels != pipe.vae.config.latent_channels:
        raise ConfigError(
            f"Expected a UNet with {pipe.vae.config.latent_channels} input channels in {name}, got "
            f"{unet.config.in_channels}: load an inpainting model with an inpainting class and pass it as inpainter=."
        )


def tokenizers_of(pipe: DiffusionPipeline) -> list[Any]:
    """The tokenizers of a pipeline's text encoders."""
    return [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part is not None]


def count_tokens(
    pipe: DiffusionPipeline, call: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Callable[[str], int], int]:
    """How many tokens a text has for the text encoder that reads the longest texts, and how many that one can read.

    The others, such as CLIP beside T5, read its beginning, where the user's prompt stands. Where several read equally
    much, the one counts for which a text has the most tokens.

    Args:
        pipe: whose text encoders these are.
        call: arguments of its call; ``max_sequence_length`` counts.
    """
    own = takes(pipe).get("max_sequence_length")
    family, tokenizers = family_of(pipe), tokenizers_of(pipe)
    usual = family.reads if own is None else own.default
    longest = call.get("max_sequence_length", usual) or max(each.model_max_length for each in tokenizers)
    limits = [(min(each.model_max_length, longest) - family.framing, each) for each in tokenizers]
    most = max(limit for limit, _ in limits)
    readers = [tokenizer for limit, tokenizer in limits if limit == most]

    def count(text: str) -> int:
        return max(len(tokenizer(text, verbose=False).input_ids) for tokenizer in readers)

    return count, most


_SMALL_VOCABULARY = 5000
"""A tokenizer with at most so many entries serves a text encoder that was trained on few words (CLIP has 49408)."""


def reads_free_text(pipe: DiffusionPipeline) -> bool:
    """Whether the text encoders know more than the few words of a narrow world."""
    return all(len(tokenizer) > _SMALL_VOCABULARY for tokenizer in tokenizers_of(pipe))
