"""The supported pipelines of diffusers and their differences. A new family is a new row of ``FAMILIES``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from refiner.errors import ConfigError
from refiner.locks import exclusive
from refiner.pipelines.editing.editors import edits, size_as_asked
from refiner.pipelines.painting.latents import FLUX, FLUX_2, FLUX_2_UNPACKED, PLAIN, QWEN, Layout
from refiner.pipelines.painting.refusals import (
    inpainting_class,
    refuse_image_to_image,
    refuse_modular,
    refuse_other_media,
)

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, kw_only=True)
class Family:
    """The properties that differ between families of text-to-image pipelines."""

    layout: Layout = PLAIN
    """The layout of the latents of a text-to-image class; see ``refiner.pipelines.painting.latents``."""
    multiple: int = 8
    """Heights and widths are multiples of this many pixels."""
    native: int | None = None
    """Side of the square crops that suit the model, in pixels; None: the pipeline's own value for its images."""
    mask_cells: int = 1
    """Side of the squares that a mask consists of, in latent cells."""
    fixed: Callable[[int, int], Mapping[str, Any]] = lambda _height, _width: {}
    """Maps height and width, in pixels, to arguments that keep the inpainting call from resizing its images."""
    one_area: bool = False
    """Whether the call scales all images to the area of ``default_sample_size``, an attribute of the pipeline."""
    longest: Callable[[DiffusionPipeline], int] | None = None
    """Longest side that the denoiser has position embeddings for, in patches of latent cells; None: no limit."""
    one_length: bool = False
    """Whether the prompts of a batch must have the same number of tokens, because padding changes the image."""
    reads: int | None = None
    """Most tokens that are read if the call has no ``max_sequence_length``; None: the limit of the tokenizers."""
    framing: int = 0
    """Most tokens that a chat template adds to a prompt; they count towards ``max_sequence_length``."""
    blends: bool = True
    """Whether the call, where it takes a mask, restores the known latents outside the mask after every step."""
    negative_switches: bool = False
    """Whether a negative prompt, even an empty one, switches guidance on, which doubles the denoiser rows."""
    control: str | None = None
    """Name of ``control_image`` in the generator's call; None: the same name, or no ControlNet."""
    twin: str | None = None
    """Class with the same components that repaints, unless a control image is given; None: the pipeline itself."""
    modes: bool = False
    """Whether the ControlNet is one for several kinds of control images, given as a list with one for each mode."""
    alone: Callable[[Mapping[str, Any]], bool] = lambda _options: False
    """Whether a call with some options draws random numbers without a generator, so that each crop needs its own."""
    single: bool = False
    """Whether a call takes only one prompt, as a text, so that each crop needs its own."""
    negatives: bool = False
    """Whether a batch needs a negative prompt for each image, even an empty one."""


def _longest(pipe: DiffusionPipeline) -> int:
    return int(pipe.transformer.config.pos_embed_max_size)


def _area_as_asked(height: int, width: int) -> Mapping[str, Any]:
    return {"max_area": height * width}


def _no_bins(_height: int, _width: int) -> Mapping[str, Any]:
    return {"use_resolution_binning": False}


def _controlled(options: Mapping[str, Any]) -> bool:
    return options.get("control_image") is not None


def _referring(options: Mapping[str, Any]) -> bool:
    return options.get("input_images") is not None


def _rewritten(options: Mapping[str, Any]) -> bool:
    return bool(options.get("enable_prompt_rewrite", True))


_SD = Family()
_SD3 = Family(multiple=16, longest=_longest)
_FLUX = Family(layout=FLUX, multiple=16, negative_switches=True)
_FLUX_2 = Family(layout=FLUX_2, multiple=16, native=1024, framing=40)
_KLEIN = Family(layout=FLUX_2, multiple=16, native=1024, framing=16)
_QWEN = Family(layout=QWEN, multiple=16, framing=16, negative_switches=True)
_Z_IMAGE = Family(multiple=16, native=1024, framing=16)
_CHROMA = Family(layout=FLUX, multiple=16)
_PIXART = Family(multiple=16, fixed=_no_bins)
_SANA = Family(multiple=32, fixed=_no_bins)
_HUNYUAN_DIT = Family(multiple=16, fixed=_no_bins, reads=256)

FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": replace(_SD, control="image", twin="StableDiffusionPipeline"),
    "StableDiffusionControlNetInpaintPipeline": replace(_SD, twin="StableDiffusionInpaintPipeline"),
    "StableDiffusionXLPipeline": _SD,
    "StableDiffusionXLImg2ImgPipeline": replace(_SD, twin="StableDiffusionXLInpaintPipeline"),
    "StableDiffusionXLInpaintPipeline": _SD,
    "StableDiffusionXLControlNetPipeline": replace(_SD, control="image", twin="StableDiffusionXLPipeline"),
    "StableDiffusionXLControlNetInpaintPipeline": replace(_SD, twin="StableDiffusionXLInpaintPipeline"),
    "StableDiffusionXLControlNetUnionPipeline": replace(_SD, twin="StableDiffusionXLPipeline", modes=True),
    "StableDiffusionXLControlNetUnionInpaintPipeline": replace(
        _SD, twin="StableDiffusionXLInpaintPipeline", modes=True
    ),
    "StableDiffusionPAGPipeline": _SD,
    "StableDiffusionPAGInpaintPipeline": _SD,
    "StableDiffusionControlNetPAGPipeline": replace(_SD, control="image", twin="StableDiffusionPAGPipeline"),
    "StableDiffusionControlNetPAGInpaintPipeline": replace(_SD, twin="StableDiffusionPAGInpaintPipeline"),
    "StableDiffusionXLPAGPipeline": _SD,
    "StableDiffusionXLPAGInpaintPipeline": _SD,
    "StableDiffusionXLControlNetPAGPipeline": replace(_SD, control="image", twin="StableDiffusionXLPAGPipeline"),
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusion3PAGPipeline": _SD3,
    "StableDiffusion3InpaintPipeline": _SD3,
    "StableDiffusion3ControlNetPipeline": replace(_SD3, twin="StableDiffusion3Pipeline", alone=_controlled),
    "FluxPipeline": _FLUX,
    "FluxInpaintPipeline": _FLUX,
    "FluxControlNetPipeline": replace(_FLUX, twin="FluxPipeline"),
    "FluxControlNetInpaintPipeline": replace(_FLUX, twin="FluxInpaintPipeline"),
    "FluxFillPipeline": Family(multiple=16, blends=False),
    "FluxKontextPipeline": replace(_FLUX, fixed=_area_as_asked),
    "FluxKontextInpaintPipeline": Family(multiple=16, fixed=size_as_asked, negative_switches=True),
    "Flux2Pipeline": _FLUX_2,
    "Flux2KleinPipeline": _KLEIN,
    # Its call shrinks images larger than 1024 x 1024: with 992, crops stay below after rounding.
    "Flux2KleinInpaintPipeline": replace(_KLEIN, mask_cells=2, native=992),
    "QwenImagePipeline": _QWEN,
    "QwenImageInpaintPipeline": _QWEN,
    "ZImagePipeline": _Z_IMAGE,
    "ZImageInpaintPipeline": _Z_IMAGE,
    "ChromaPipeline": _CHROMA,
    "ChromaInpaintPipeline": replace(_CHROMA, twin="ChromaPipeline"),
    "PixArtSigmaPipeline": _PIXART,
    "PixArtSigmaPAGPipeline": _PIXART,
    "SanaPipeline": _SANA,
    "SanaPAGPipeline": _SANA,
    "KolorsPipeline": Family(),
    "KolorsPAGPipeline": Family(),
    "HunyuanDiTPipeline": _HUNYUAN_DIT,
    "HunyuanDiTPAGPipeline": _HUNYUAN_DIT,
    "AuraFlowPipeline": Family(multiple=16, native=1024, longest=lambda pipe: math.isqrt(_longest(pipe))),
    "Lumina2Pipeline": Family(multiple=16),
    "CogView4Pipeline": Family(multiple=16, one_length=True),
    "HiDreamImagePipeline": Family(multiple=16, one_area=True),
    "HunyuanImagePipeline": Family(multiple=32, reads=1000),
    "OvisImagePipeline": Family(layout=FLUX, multiple=16, framing=16),
    "Krea2Pipeline": Family(layout=QWEN, multiple=16, native=1024, framing=5),
    "LongCatImagePipeline": Family(layout=FLUX, multiple=16, reads=512, alone=_rewritten, negatives=True),
    "OmniGenPipeline": Family(multiple=16, longest=_longest, one_length=True, framing=16, alone=_referring),
    "DreamLitePipeline": Family(multiple=32, framing=16, single=True),
    "BriaFibo2Pipeline": Family(layout=FLUX_2_UNPACKED, multiple=16, reads=4096, framing=16),
}
"""Families by the name of a class in diffusers; a subclass belongs to the family of its nearest ancestor."""

_UNKNOWN = Family(multiple=16, blends=False)
"""For other pipelines: they can generate if a separate pipeline inpaints, or inpaint with their own call."""


def known_family(cls: type) -> Family | None:
    """Return the family of a pipeline's class; None if neither it nor an ancestor is in ``FAMILIES``."""
    return next((FAMILIES[ancestor.__name__] for ancestor in cls.__mro__ if ancestor.__name__ in FAMILIES), None)


def family_of(pipe: DiffusionPipeline) -> Family:
    """Return the family of a pipeline; for an unknown pipeline, values that fit most pipelines."""
    return known_family(type(pipe)) or _UNKNOWN


def takes(pipe: DiffusionPipeline | type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the call of a pipeline or class; for ``**kwargs`` also those of its ancestor."""
    cls = pipe if isinstance(pipe, type) else type(pipe)
    known: dict[str, inspect.Parameter] = {}
    for call in (vars(each)["__call__"] for each in cls.__mro__ if "__call__" in vars(each)):
        parameters = inspect.signature(call).parameters
        known = {**parameters, **known}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return known


def twin_of(pipe: DiffusionPipeline) -> type | None:
    """Return the class that inpaints with a pipeline's components in place of its own, if its family names one."""
    import diffusers

    name = family_of(pipe).twin
    return None if name is None else getattr(diffusers, name)


def inpaints(pipe: DiffusionPipeline | type) -> bool:
    """Whether the own call of a pipeline or class takes a mask and inpaints it."""
    return {"prompt", "image", "mask_image"} <= takes(pipe).keys()


def mixes_strengths(pipe: DiffusionPipeline) -> bool:
    """Whether one call can inpaint parts of an image, and images of a batch, with different strengths."""
    unet = getattr(pipe, "unet", None)
    nine = unet is not None and unet.config.in_channels != pipe.vae.config.latent_channels
    return family_of(pipe).blends and not nine


def denoiser_of(pipe: DiffusionPipeline) -> torch.nn.Module:
    """Return the network that is called at every step: UNet or transformer."""
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def cell_of(pipe: DiffusionPipeline) -> int:
    """Return the side of the squares that a mask consists of, in pixels."""
    return int(pipe.vae_scale_factor) * family_of(pipe).mask_cells


def multiple_of(pipe: DiffusionPipeline) -> int:
    """Return the number of pixels that heights and widths must be multiples of."""
    return math.lcm(family_of(pipe).multiple, cell_of(pipe))


def longest_side(pipe: DiffusionPipeline) -> int | None:
    """Return the longest side that a pipeline can generate, in pixels; None: no limit."""
    longest = family_of(pipe).longest
    if longest is None:
        return None
    return longest(pipe) * int(pipe.transformer.config.patch_size) * int(pipe.vae_scale_factor)


def native_side(pipe: DiffusionPipeline) -> int:
    """Return the side of the square images that a pipeline's model was trained on, in pixels."""
    native = family_of(pipe).native
    if native is not None:
        return native
    config: Any = denoiser_of(pipe).config
    side = getattr(pipe, "default_sample_size", None) or config.sample_size
    return (side if isinstance(side, int) else max(side)) * int(pipe.vae_scale_factor)


def sample_size(pipe: DiffusionPipeline, size: tuple[int, int]) -> float:
    """Return the ``default_sample_size`` for which a call with ``one_area`` keeps a width and height, in pixels."""
    return math.sqrt(math.prod(size)) * (1 + 1e-6) / int(pipe.vae_scale_factor)  # sides are rounded down


def check_pipelines(
    pipe: DiffusionPipeline, inpainter: DiffusionPipeline | None, second_stage: DiffusionPipeline | None
) -> None:
    """Check that the pipelines can generate from text, inpaint (None: ``pipe`` inpaints), and be a second stage.

    Raises:
        ConfigError: a pipeline cannot; the message says what to use instead.
    """
    repainter = pipe if inpainter is None else inpainter
    for used in filter(None, (pipe, inpainter, second_stage)):
        refuse_modular(used)
        refuse_other_media(used, takes(used))
    refuse_image_to_image(pipe, takes(pipe))
    _check_parts(pipe)
    if inpainter is None or not edits(inpainter):
        _check_parts(repainter)
        check_inpaints(type(repainter))
    if second_stage is not None and not {"prompt", "image", "generator"} <= takes(second_stage).keys():
        raise ConfigError(
            f"Expected a second stage that takes prompt and image, got {type(second_stage).__name__}: pass an "
            "image-to-image pipeline, such as StableDiffusionXLImg2ImgPipeline."
        )


def check_inpaints(cls: type) -> None:
    """Raise ConfigError if the pipelines of a class cannot inpaint."""
    if known_family(cls) is None and not inpaints(cls):
        raise ConfigError(
            f"Expected a pipeline that takes prompt, image and mask_image, or one of {', '.join(FAMILIES)}, got "
            f"{cls.__name__}: pass a pipeline that can inpaint, such as {inpainting_class(cls)}, as inpainter=."
        )


def _check_parts(pipe: DiffusionPipeline) -> None:
    name = type(pipe).__name__
    if "prompt" not in takes(pipe) or not (hasattr(pipe, "unet") or hasattr(pipe, "transformer")):
        raise ConfigError(
            f"Expected a text-to-image pipeline, got {name}: pass a pipeline that generates from a prompt."
        )
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if (
        unet is not None
        and vae is not None
        and not inpaints(pipe)
        and unet.config.in_channels != pipe.vae.config.latent_channels
    ):
        raise ConfigError(
            f"Expected a UNet with {pipe.vae.config.latent_channels} input channels in {name}, got "
            f"{unet.config.in_channels}: load an inpainting model with an inpainting class and pass it as inpainter=."
        )


def check_complete(pipe: DiffusionPipeline, inpainter: DiffusionPipeline | None) -> None:
    """Raise ConfigError if a pipeline was loaded without a part that refining needs; wrapping it is allowed."""
    for each in (pipe, inpainter or pipe):
        missing = [part for part in ("vae", "scheduler") if getattr(each, part, None) is None]
        denoisers = [getattr(each, name) for name in ("unet", "transformer") if hasattr(each, name)]
        missing += ["denoiser"] if not any(part is not None for part in denoisers) else []
        if missing:
            raise ConfigError(f"{type(each).__name__} was loaded without its {missing[0]}: load it with all its parts.")


def own_image(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline's call has an ``image`` of its own: a reference, an image to edit, or a control image."""
    return "image" in takes(pipe) and not takes(pipe).keys() & {"mask_image", "strength"}


def tokenizers_of(pipe: DiffusionPipeline) -> list[Any]:
    """List the tokenizers of a pipeline's text encoders, also those inside a processor of texts and images."""
    parts = [part for name, part in pipe.components.items() if "tokenizer" in name or "processor" in name]
    found = [part if hasattr(part, "model_max_length") else getattr(part, "tokenizer", None) for part in parts]
    return [tokenizer for tokenizer in found if tokenizer is not None]


def several_controls(pipe: DiffusionPipeline) -> bool:
    """Whether a list of control images is one for each ControlNet or mode, and not one for each prompt."""
    return family_of(pipe).modes or hasattr(getattr(pipe, "controlnet", None), "nets")


def tokens_of(tokenizer: Any, text: str) -> int:
    """Count the tokens of a text while no other thread uses the tokenizer, because padding is a state of tokenizers."""
    with exclusive([tokenizer]):
        return len(tokenizer(text, verbose=False).input_ids)


def count_tokens(
    pipe: DiffusionPipeline, call: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Callable[[str], int], int]:
    """Return a function that counts the tokens of a text, and the most tokens that the pipeline reads.

    Both are for the text encoder that reads the longest texts. Other encoders, such as CLIP in a pipeline with T5, read
    the beginning of the text, which is the user's prompt. If several encoders read the same length, a text counts with
    the largest number of tokens. Of ``call``, only ``max_sequence_length`` is used.
    """
    own = takes(pipe).get("max_sequence_length")
    family, tokenizers = family_of(pipe), tokenizers_of(pipe)
    usual = family.reads if own is None else own.default
    if not tokenizers:  # the pipeline was loaded without them, so that it takes only embeddings
        return (lambda text: len(text.split())), 50
    longest = call.get("max_sequence_length", usual) or max(each.model_max_length for each in tokenizers)
    limits = [(min(each.model_max_length, longest) - family.framing, each) for each in tokenizers]
    most = max(limit for limit, _ in limits)
    readers = [tokenizer for limit, tokenizer in limits if limit == most]

    def count(text: str) -> int:
        return max(tokens_of(tokenizer, text) for tokenizer in readers)

    return count, most


def reads_free_text(pipe: DiffusionPipeline) -> bool:
    """Whether a text encoder was trained on free text, by its vocabulary (CLIP has 49408 entries)."""
    sizes = [len(tokenizer) for tokenizer in tokenizers_of(pipe)]
    return not sizes or max(sizes) > 5000
