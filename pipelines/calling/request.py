"""A call of RefinedPipeline, sorted into arguments of the wrapped pipeline's call and settings of the loop."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from refiner.errors import ConfigError
from refiner.images import Source, load_images
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.editors import editor_of, edits
from refiner.pipelines.editing.hosted import local
from refiner.pipelines.painting import families
from refiner.pipelines.painting.arguments import PROMPT_EMBEDDINGS, embeddings_in, is_open, kind_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from refiner.pipelines.saving.record import Wrapped

Where = Literal["call", "inpaint_call", "edit_call"]
FIELDS: Mapping[str, Any] = {each.name: each.default for each in fields(RefineConfig)}
"""Settings of the loop -> their default values."""
_LEGACY = frozenset({"callback", "callback_steps"})
"""Arguments that older classes of diffusers take without naming them."""
_OWN = ("start_image", "mask_image", "strength", "seed", "config", "callback_on_attempt")
_REFUSED = {
    "padding_mask_crop": "crop_padding (context around a region, as a share of its longer side)",
    "masked_image_latents": "mask_image",
    "mask_image_latents": "mask_image",
}
"""Arguments of inpainting calls that have another name here."""
_DEFAULTS = frozenset({"prompt", "generator", "num_images_per_prompt", "height", "width"})
"""Arguments that refiner sets for each region, and that may have a default value for the start images."""
_CALLED = {
    "strength": "strengths of RefineConfig",
    "image": "start_image when you call it",
    **{name: f"{name} when you call it" for name in ("mask_image", "output_type", "return_dict", *sorted(_DEFAULTS))},
}
"""Arguments that refiner sets for each region, and where to give them instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a call asks for."""

    prompts: tuple[str, ...]
    """One text for each prompt, which images are judged by; empty where only embeddings are given."""
    count: int
    """Images for each prompt."""
    arguments: Mapping[str, Any]
    """Arguments of the wrapped pipeline's call, as the user wrote them."""
    config: RefineConfig
    images: tuple[Image.Image, ...] = ()
    """One image to refine for each requested image; empty: they are generated."""

    @property
    def negatives(self) -> tuple[str, ...]:
        """The negative prompts of the call."""
        given = self.arguments.get("negative_prompt") or self.config.negative_prompt
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def total(self) -> int:
        """Number of requested images."""
        return len(self.prompts) * self.count


def request_of(
    pipe: DiffusionPipeline,
    options: Mapping[str, Any],
    *,
    config: RefineConfig,
    call: Mapping[str, Any],
    start_image: Source | Sequence[Source] | None,
) -> Request:
    """Sort and check the options of a call.

    Args:
        pipe: the wrapped pipeline.
        options: what the user passed by name.
        config: settings of the loop; options that are fields of it replace its values.
        call: default arguments of the wrapped call.
        start_image: image to refine, or one for each requested image.

    Raises:
        ConfigError: a name is unknown, or a value is out of its range.
        InputError: an image cannot be used.
    """
    passed, changes = sorted_options(pipe, options)
    arguments = {**call, **passed}
    prompts, arguments = _prompts_in(arguments)
    count = arguments.get("num_images_per_prompt") or 1
    images = _start_images(start_image, passed, len(prompts) * count)
    if len(images) > len(prompts) * count:
        count = len(images)
    config = replace(config, **changes)
    if config.negative_prompt:
        arguments.setdefault("negative_prompt", config.negative_prompt)
    _check_negative(pipe, arguments)
    return Request(prompts=prompts, count=count, arguments=arguments, config=config, images=images)


def sorted_options(pipe: DiffusionPipeline, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into arguments of the wrapped call and changes of the config.

    None as a setting of the loop means its value in the config; as an argument of the call, it is passed on.

    Raises:
        ConfigError: a name is known to neither; the message names the nearest known one.
    """
    known, passed, changes = call_names(pipe), dict[str, Any](), dict[str, Any]()
    for name, value in options.items():
        if name == "strength":
            changes |= {} if value is None else {"strengths": (value,)}
        elif name in known and name not in _REFUSED:
            _check_used(pipe, name, for_regions=families.inpaints(pipe))
            passed[name] = value
        elif name in FIELDS:
            changes |= {} if value is None and FIELDS[name] is not None else {name: value}
        elif is_open(pipe):
            passed[name] = value
        else:
            raise unknown(name, pipe, known)
    if isinstance(passed.get("negative_prompt"), str):
        changes["negative_prompt"] = passed["negative_prompt"]
    return passed, changes


def call_names(pipe: DiffusionPipeline) -> set[str]:
    """Return the names of the arguments that a pipeline's call takes."""
    parameters = families.takes(pipe)
    named = {name for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD} - {"self"}
    if len(named) < len(parameters) - 1:
        named |= _LEGACY
    family = families.family_of(pipe)
    twin = families.twin_of(pipe)
    if twin is not None and family.control is None and "control_image" not in named:  # the twin is always called
        named &= families.takes(twin).keys()
    return named | ({"control_image"} if family.control else set())


def check_names(pipe: DiffusionPipeline, names: Iterable[str], where: Where) -> None:
    """Check arguments that the user gave when wrapping a pipeline, in ``call=``, ``inpaint_call=`` or ``edit_call=``.

    Raises:
        ConfigError: the pipeline's call does not take one of them, or refiner sets it itself.
    """
    known = call_names(pipe)
    for name in names:
        own = kind_of(name, pipe) == "own" and (where != "call" or name not in _DEFAULTS)
        if name in _REFUSED or own:
            raise ConfigError(f"{name} (in {where}=) is not taken, because refiner sets it itself{_elsewhere(name)}")
        if name not in known and not is_open(pipe):
            near = _nearest(name, known)
            raise ConfigError(f"{type(pipe).__name__} takes no argument {name!r} (in {where}=){near}")
        _check_used(pipe, name, for_regions=where != "call" or families.inpaints(pipe))


def check_calls(pipe: Wrapped) -> None:
    """Check the default arguments of all calls, as ``check_names`` does.

    Raises:
        ConfigError: a call does not take one of them, or refiner sets it itself; or there is no such call.
    """
    check_names(pipe.pipe, pipe.call_defaults, "call")
    check_inpaint_call(pipe.pipe, pipe.inpainter, pipe.inpaint_call_defaults)
    if pipe.editor is not None:
        _check_repair_call(pipe.editor, pipe.edit_call_defaults, "edit_call")
    elif pipe.edit_call_defaults:
        raise ConfigError("edit_call= has no effect without an edit model: pass one as editor=, or leave it out.")


def check_inpaint_call(pipe: DiffusionPipeline, inpainter: Any, names: Iterable[str]) -> None:
    """Check arguments in ``inpaint_call=`` as ``check_names`` does, for what inpaints; None: ``pipe`` does.

    Raises:
        ConfigError: it does not take one of them, or refiner sets it itself.
    """
    _check_repair_call(pipe if inpainter is None else inpainter, names, "inpaint_call")


def _check_repair_call(pipe: Any, names: Iterable[str], where: Where) -> None:
    editor = editor_of(pipe)
    for name in names:
        if local(pipe) is None:
            raise ConfigError(
                f"{name} (in {where}=) is not taken by a hosted edit model: give further fields of its requests as "
                "extra_body in its id."
            )
        own = editor is not None and name in editor.set
        if own or (edits(pipe) and name in PROMPT_EMBEDDINGS):
            what = "the region to edit" if own else "an instruction"
            raise ConfigError(
                f"{name} (in {where}=) is not taken, because refiner gives {type(pipe).__name__} {what}: leave it out."
            )
    if local(pipe) is not None:
        check_names(pipe, names, where)


def _check_used(pipe: DiffusionPipeline, name: str, *, for_regions: bool) -> None:
    """Refuse what would be used only for whole images, or not at all, where a call inpaints."""
    sized = families.inpaints(pipe) and name in families.family_of(pipe).fixed(1, 1)
    if for_regions and (sized or kind_of(name, pipe) == "start"):
        raise ConfigError(f"{name} has no effect on the regions that {type(pipe).__name__} inpaints: leave it out.")


def _elsewhere(name: str) -> str:
    return f": use {_REFUSED.get(name) or _CALLED[name]}." if name in {*_REFUSED, *_CALLED} else ": leave it out."


def unknown(name: str, pipe: DiffusionPipeline, known: Iterable[str]) -> ConfigError:
    """Describe a name that neither the wrapped call nor the loop knows."""
    owner = type(pipe).__name__
    if name in _REFUSED:
        return ConfigError(f"{name} is not taken, because refiner cuts out the regions itself: use {_REFUSED[name]}.")
    return ConfigError(f"Neither {owner} nor RefineConfig knows {name!r}{_nearest(name, [*known, *FIELDS, *_OWN])}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ": check its spelling."


def bound(pipe: DiffusionPipeline, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Give positional arguments the names that the wrapped pipeline's call has for them.

    A text in the first place is the prompt, also where the call begins with an image, as that of FLUX.2 Klein.

    Raises:
        TypeError: there are too many, or one is also passed by name.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, each in families.takes(pipe).items() if each.kind in kinds and name != "self"]
    if args and names[0] != "prompt" and _is_text(args[0]):
        names = ["prompt"]
    if len(args) > len(names):
        raise TypeError(f"{type(pipe).__name__} takes {len(names)} positional arguments, got {len(args)}.")
    twice = [name for name in names[: len(args)] if name in options]
    if twice:
        raise TypeError(f"{type(pipe).__name__} got several values for the argument {twice[0]!r}.")
    return {**dict(zip(names, args, strict=False)), **options}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _prompts_in(arguments: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the texts to judge by, and the arguments without a text that stands beside embeddings.

    diffusers takes either a prompt or its embeddings. Here the text may stand beside them: it is what images are
    judged by, and the embeddings are what they are generated from.
    """
    prompt, embeddings = arguments.get("prompt"), embeddings_in(arguments)
    rows = 1 if embeddings is None else len(embeddings)
    if prompt is None:
        return ("",) * rows, dict(arguments)
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if not prompts:
        raise ConfigError("The list of prompts is empty: pass at least one.")
    if embeddings is None:
        return prompts, dict(arguments)
    texts = prompts * rows if len(prompts) == 1 else prompts
    if len(texts) != rows:
        raise ConfigError(f"There are {len(prompts)} prompts beside {rows} rows of prompt_embeds: pass one for each.")
    return texts, {name: value for name, value in arguments.items() if name != "prompt"}


def _start_images(given: Any, passed: Mapping[str, Any], total: int) -> tuple[Image.Image, ...]:
    """Read the images to refine, at the size that the call asks for, one for each of ``total`` requested images."""
    if given is None:
        return ()
    images = [_resized(image, passed) for image in load_images(given)]
    if len(images) == 1:
        return tuple(images) * total
    if total not in (1, len(images)):
        raise ConfigError(f"There are {len(images)} images to refine for {total} requested images: pass one for each.")
    return tuple(images)


def _resized(image: Image.Image, passed: Mapping[str, Any]) -> Image.Image:
    """Resize an image to the height and width of the call, if it sets any, as the inpainting calls of diffusers do."""
    size = passed.get("width") or image.width, passed.get("height") or image.height
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _check_negative(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> None:
    if arguments.get("negative_prompt") and "negative_prompt" not in families.takes(pipe):
        raise ConfigError(f"{type(pipe).__name__} takes no negative_prompt: say in the prompt what the image shows.")
