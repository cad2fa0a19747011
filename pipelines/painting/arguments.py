"""What becomes of each argument of a diffusers call when one image of it is generated again, or its regions inpainted.

An argument that is not in ``KINDS`` is passed on unchanged, such as ``guidance_scale`` or ``ip_adapter_image``, which
diffusers itself repeats for each row of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from refiner.pipelines.painting import families
from refiner.pipelines.painting.controls import cut_out, cut_out_masks
from refiner.pipelines.painting.crops import Crop

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Kind = Literal["own", "text", "row", "layers", "images", "start", "frame", "control", "attention"]
"""own: refiner sets its own value for each image and each region. text: one text for all prompts, or a list with one
for each prompt; a region gets that of its image. row: a tensor with a row for each prompt, or a list; a region gets the
row of its image. layers: the same, for a tensor with its rows on the second axis. images: a list of
images, or one such list for each prompt. start: used only for whole images.
frame: sizes and offsets in the whole image, moved to the region. control: images that are cut out as the region is.
attention: a mapping in which ``ip_adapter_masks`` are cut out."""

PROMPT_EMBEDDINGS = (
    *("prompt_embeds", "prompt_embeds_2", "pooled_prompt_embeds", "prompt_embeds_mask"),
    *("prompt_embeds_mask_2", "prompt_attention_mask", "prompt_attention_mask_2", "prompt_embeds_t5"),
)
"""Arguments that give a prompt as the states of text encoders."""
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        **dict.fromkeys(("prompt", "generator", "num_images_per_prompt", "output_type", "return_dict"), "own"),
        **dict.fromkeys(("height", "width", "image", "mask_image", "strength"), "own"),
        **dict.fromkeys(("prompt_2", "prompt_3", "prompt_4", "negative_prompt"), "text"),
        **dict.fromkeys(("negative_prompt_2", "negative_prompt_3", "negative_prompt_4"), "text"),
        **dict.fromkeys(("prompt_embeds_llama3", "negative_prompt_embeds_llama3"), "layers"),
        **dict.fromkeys(PROMPT_EMBEDDINGS, "row"),
        **dict.fromkeys((f"negative_{name}" for name in PROMPT_EMBEDDINGS), "row"),
        "input_images": "images",
        **dict.fromkeys(("latents", "denoising_end"), "start"),
        **dict.fromkeys(("original_size", "crops_coords_top_left", "target_size"), "frame"),
        **dict.fromkeys(("negative_original_size", "negative_crops_coords_top_left", "negative_target_size"), "frame"),
        "control_image": "control",
        **dict.fromkeys(("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs"), "attention"),
    }
)
"""Argument of a diffusers call -> what becomes of it."""

TEXTS = ("prompt_2", "prompt_3", "prompt_4")
"""Arguments with the prompts of further text encoders."""
MASKS = "ip_adapter_masks"


def embeddings_in(options: Mapping[str, Any], prefix: str = "") -> Any:
    """Return the embeddings of prompts in the options of a call, with a row for each prompt, or None.

    With ``prefix="negative_"``, those of negative prompts. HiDream has them under the name of a text encoder.
    """
    given = (options.get(f"{prefix}{name}") for name in ("prompt_embeds", "prompt_embeds_t5"))
    return next((value for value in given if value is not None), None)


def kind_of(name: str, pipe: DiffusionPipeline) -> Kind | None:
    """Return the kind of an argument; None: it is passed on unchanged."""
    family = families.family_of(pipe)
    if name == family.control:
        return "control"
    if name == "image" and families.own_image(pipe):
        return None  # images to edit or to take as a reference, as the pipeline's own call defines them
    return KINDS.get(name)


def of_image(pipe: DiffusionPipeline, arguments: Mapping[str, Any], *, prompt: int, prompts: int) -> dict[str, Any]:
    """Select, from the arguments of a call, those of a single image.

    Args:
        pipe: the pipeline that is called.
        arguments: the arguments of a call for one prompt or several.
        prompt: number of the image's prompt.
        prompts: number of prompts of the call.
    """
    chosen: dict[str, Any] = {}
    several = families.several_controls(pipe)
    for name, value in arguments.items():
        kind = kind_of(name, pipe)
        listed = isinstance(value, list | tuple) and len(value) == prompts
        if (kind == "text" and listed) or (kind == "control" and listed and prompts > 1 and not several):
            chosen[name] = value[prompt]
        elif kind == "row" and value is not None and len(value) == prompts:
            chosen[name] = value[prompt : prompt + 1]
        elif kind == "images" and one_list_each(value, prompts):
            chosen[name] = value[prompt]
        elif kind == "layers" and value is not None:
            chosen[name] = value[:, prompt : prompt + 1]
        elif name != "latents":
            chosen[name] = value
    return chosen


def alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether regions of two images can be inpainted in one call, by the arguments that their images were made with.

    They must be equal; tensors and images must be the same objects. Only the texts that each region has of its own may
    differ, where both images have some.
    """
    return first.keys() == second.keys() and all(_alike(name, first[name], second[name]) for name in first)


def _alike(name: str, first: Any, second: Any) -> bool:
    if name in (*TEXTS, "negative_prompt"):
        return isinstance(first, str) == isinstance(second, str) and (isinstance(first, str) or _same(first, second))
    return _same(first, second)


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return isinstance(first, str | int | float) and first == second


def one_list_each(value: Any, prompts: int) -> bool:
    """Whether reference images are given as a list of images, or None, for each prompt, and not as one for all."""
    return isinstance(value, list) and len(value) == prompts and all(isinstance(each, list | None) for each in value)


def for_regions(pipe: DiffusionPipeline, arguments: Mapping[str, Any], crops: Sequence[Crop]) -> dict[str, Any]:
    """Convert the arguments of an image to those of a call that inpaints N crops of it, all of one size."""
    family, made = families.family_of(pipe), dict[str, Any]()
    several = families.several_controls(pipe)
    for name, value in arguments.items():
        kind = kind_of(name, pipe)
        if value is None:
            made |= {} if kind in ("own", "start") else {name: None}
        elif kind in ("text", "images"):
            made[name] = value if family.single else [value] * len(crops)
        elif kind == "row":
            made[name] = _repeated(value, len(crops))
        elif kind == "layers":
            made[name] = value.repeat_interleave(len(crops), dim=1)
        elif kind == "frame":
            made[name] = framed(name, value, crops[0])
        elif kind == "control":
            made[family.control or name] = cut_out(value, crops, several=several)
        elif kind == "attention" and MASKS in value:
            made[name] = {**value, MASKS: cut_out_masks(value[MASKS], crops[0])}
        elif kind not in ("own", "start"):
            made[name] = value
    return made


def differ(arguments: Mapping[str, Any], crop: Crop) -> tuple[Any, ...]:
    """Return what one call can have only once, for a crop; crops that differ in it need separate calls."""
    framed_ = any(arguments.get(name) is not None for name, kind in KINDS.items() if kind == "frame")
    masked = any(MASKS in (arguments.get(name) or {}) for name, kind in KINDS.items() if kind == "attention")
    return (crop.place, crop.image.size) if framed_ or masked else ()


def framed(name: str, value: Sequence[int], crop: Crop) -> tuple[int, int]:
    """Move a size or an offset (height, width), as SDXL is conditioned on, from the whole image to a crop.

    The crop is a part of the image, scaled up to the size that the model works at. So its offset is that of the whole
    image plus that of the part, both scaled, and its target size is its own size. The original size tells how good the
    image is, and stays.
    """
    (first, second), (width, height) = value, crop.image.size
    if name.endswith("original_size") or crop.place is None:
        return first, second
    if name.endswith("target_size"):
        return height, width
    (x0, y0, x1, y1), _ = crop.place
    across, down = width / (x1 - x0), height / (y1 - y0)
    return round((first + y0) * down), round((second + x0) * across)


def _repeated(value: Any, count: int) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.repeat_interleave(count, dim=0)
    return [row for row in value for _ in range(count)]


def is_open(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline of the user's own class takes any argument, so that no name can be refused."""
    calls = [vars(cls)["__call__"] for cls in type(pipe).__mro__ if "__call__" in vars(cls)]
    last = next((call for call in calls if not _passes_on(call)), calls[-1])
    return _passes_on(last) and not last.__module__.startswith("diffusers.")


def _passes_on(call: Any) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in inspect.signature(call).parameters.values())
