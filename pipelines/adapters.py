"""diffusers pipelines as the loop's generator and inpainter; what differs between them is in ``families``."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refiner.errors import BadImageError
from refiner.pipelines.blending import blended
from refiner.pipelines.families import (
    cell_of,
    denoiser_of,
    family_of,
    inpaints,
    longest_side,
    multiple_of,
    native_side,
    takes,
    tokenizers_of,
)
from refiner.pipelines.inpainting import Crop, Pixels
from refiner.protocols import PaintJob
from refiner.types import Calls

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_PER_PICTURE = frozenset({"image", "mask_image", "masked_image_latents", "latents", "strength", "padding_mask_crop"})
"""Options that belong to one picture: those of the generator never reach inpainting, which sets its own."""


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """How pictures are painted."""

    height: int | None = None  # pixels; None: the model's native side
    width: int | None = None  # pixels; None: the model's native side
    native: int | None = None  # side of the pictures the model was trained on, in pixels; None: as the pipeline says
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the diffusers pipeline's call
    inpaint_options: Mapping[str, Any] = field(default_factory=dict)  # the same for inpainting; they go before


class DiffusersPainter:
    """Generates pictures and paints crops with one text-to-image pipeline, whose weights both share, or with several.

    Pipelines are used as they are at the time of each call (scheduler, device, adapters, progress bar) and left as they
    were. Random numbers are drawn on the CPU, one generator for each picture: the same seed paints the same picture
    in any batch and starts from the same noise on any device.

    Args:
        pipe: paints pictures from text. One that can only repaint does so on an empty picture.
        settings: sizes and options of the calls.
        inpainter: paints crops, with ``inpaint_options`` and step callbacks alone; None: ``pipe`` does.
        second_stage: takes the latents of ``pipe``, from ``denoising_end`` of the options on, and makes pictures of
            them, as SDXL's refiner does; None: ``pipe`` does.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        settings: PaintSettings,
        *,
        inpainter: DiffusionPipeline | None = None,
        second_stage: DiffusionPipeline | None = None,
    ) -> None:
        self._pipe = pipe
        self._inpainter = pipe if inpainter is None else inpainter
        self._second_stage = second_stage
        self._settings = settings
        self._rows = 0

    @property
    def native(self) -> int:
        """Side of the square crops that suit the inpainting model, in pixels."""
        return self._settings.native or native_side(self._inpainter)

    @property
    def cell(self) -> int:
        """Side of the squares that masks consist of, in pixels."""
        return cell_of(self._inpainter)

    @property
    def multiple(self) -> int:
        """Heights and widths are multiples of this many pixels."""
        return multiple_of(self._inpainter)

    def spent(self) -> Calls:
        """Denoiser rows of all pictures and crops so far."""
        return Calls(denoiser_rows=self._rows)

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        """Paint each job on its own, so that no picture depends on its neighbours, not even by rounding.

        Raises:
            BadImageError: the model returned NaN, or no picture.
        """
        return [self._generate(job) for job in jobs]

    def _generate(self, job: PaintJob) -> Image.Image:
        if inpaints(self._pipe):
            options = self._settings.options
            pixels = self._repaint(self._pipe, [_empty(job, **self._size(always=True))], options)[0]
        elif self._second_stage is None:
            pixels = self._call(self._pipe, self._request(job) | {"output_type": "np"})
        else:
            pixels = self._in_two_stages(job, self._second_stage)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3:
            got = f"{type(pixels).__name__} of shape {tuple(getattr(pixels, 'shape', ()))}"
            raise BadImageError(f"Expected an array (H, W, 3) from the generator, got {got}: have it heed output_type.")
        if not np.isfinite(pixels).all():
            raise BadImageError("Expected finite pixels from the generator, got NaN: try another dtype.")
        return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))

    def _in_two_stages(self, job: PaintJob, second: DiffusionPipeline) -> Pixels:
        request = self._request(job)
        latents = self._call(self._pipe, request | {"output_type": "latent"})[None]
        both = {name: value for name, value in request.items() if name in takes(second) and name not in self._size()}
        both.pop("denoising_end", None)
        handed = {"denoising_start": request["denoising_end"]} if "denoising_end" in request else {}
        return self._call(second, both | handed | {"image": latents, "output_type": "np"})

    def _request(self, job: PaintJob) -> dict[str, Any]:
        """The arguments of the generator's call; a negative prompt only where there is one and the family takes it."""
        request = {**self._settings.options, **self._size()}
        control = family_of(self._pipe).control
        if control is not None and "control_image" in request:
            request[control] = request.pop("control_image")
        if job.negative_prompt and "negative_prompt" in takes(self._pipe):
            request["negative_prompt"] = job.negative_prompt
        return request | {"prompt": job.prompt, "generator": _seeded(job.seed)}

    def _size(self, *, always: bool = False) -> dict[str, int]:
        """Height and width in pixels; left to the pipeline where nothing is set."""
        settings = self._settings
        if not (always or settings.height or settings.width or settings.native):
            return {}
        side = settings.native or native_side(self._pipe)
        return {"height": settings.height or side, "width": settings.width or side}

    def _call(self, pipe: DiffusionPipeline, request: Mapping[str, Any]) -> Any:
        with self._counting(pipe), _as_it_was(pipe), _chance(request["generator"].initial_seed()):
            return pipe(**request).images[0]

    def paint(self, crops: Sequence[Crop]) -> list[Pixels]:
        """Repaint crops of one size and one strength; float (H, W, 3) in [0, 1] each."""
        painted: dict[int, Pixels] = {}
        for batch in _batches(self._inpainter, crops):
            pictures = self._repaint(self._inpainter, [crops[index] for index in batch], self._inpaint_options())
            painted.update(zip(batch, pictures, strict=False))
        return [painted[index] for index in sorted(painted)]

    def _inpaint_options(self) -> dict[str, Any]:
        """Another model than the generator has its own options; the callbacks are for both."""
        shared = self._inpainter is self._pipe
        options = {
            name: value for name, value in self._settings.options.items() if shared or name.startswith("callback")
        }
        return {**options, **self._settings.inpaint_options}

    def _repaint(self, owner: DiffusionPipeline, crops: Sequence[Crop], options: Mapping[str, Any]) -> list[Pixels]:
        """Repaint crops of one size and one strength in one call."""
        fitting = _fitting(crops[0].image.size, owner)
        if fitting is not None:
            painted = self._repaint(owner, [_resized(crop, fitting) for crop in crops], options)
            return [_stretched(pixels, crops[0].image.size) for pixels in painted]
        family = family_of(owner)
        (width, height), images = crops[0].image.size, [crop.image for crop in crops]
        pipe = inpainting_pipe(owner)
        request: dict[str, Any] = {"strength": _strength(crops[0].strength, pipe, options)}
        if inpaints(pipe):
            masks = [Image.fromarray(crop.mask).convert("L") for crop in crops]
            request |= {"image": images, "mask_image": masks}
        else:
            pipe = blended(pipe, images, [crop.mask for crop in crops], strength=request["strength"])
        if crops[0].negative_prompt:
            request["negative_prompt"] = [crop.negative_prompt for crop in crops]
        request |= {
            "prompt": [crop.prompt for crop in crops],
            "height": height,
            "width": width,
            "generator": [_seeded(crop.seed) for crop in crops],
            "output_type": "np",
            **family.fixed(height, width),
        }
        request = {name: value for name, value in options.items() if name not in _PER_PICTURE} | request
        known = takes(pipe)
        with self._counting(owner), _as_it_was(owner), _with_config(denoiser_of(owner), family.asked):
            output = pipe(**{name: value for name, value in request.items() if name in known})
        owner.maybe_free_model_hooks()
        return list(output.images)

    @contextmanager
    def _counting(self, pipe: DiffusionPipeline) -> Iterator[None]:
        """Count the rows that pass through the denoiser."""
        denoiser = denoiser_of(pipe)

        def count(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
            self._rows += len(rows)

        compiled = denoiser._compiled_call_impl
        if compiled is None:
            handle = denoiser.register_forward_pre_hook(count, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()
        else:  # by Module.compile(): hooks would be compiled too, or left out

            def counted(*args: Any, **kwargs: Any) -> Any:
                count(denoiser, args, kwargs)
                return compiled(*args, **kwargs)

            denoiser._compiled_call_impl = counted
            try:
                yield
            finally:
                denoiser._compiled_call_impl = compiled


def inpainting_pipe(owner: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline that repaints, over the very same components; a scheduler of its own, set up alike.

    The scheduler is set afterwards, because the constructors rewrite the settings of those they find outdated.
    """
    import diffusers

    name = family_of(owner).inpaint
    if name is None or inpaints(owner):
        pipe = copy.copy(owner)
    else:
        cls = getattr(diffusers, name)
        known = {**owner.config, **owner.components, "scheduler": None}
        wanted = inspect.signature(cls.__init__).parameters
        pipe = cls(**{name: known[name] for name in wanted if name in known})
        if hasattr(owner, "watermark"):
            pipe.watermark = owner.watermark
        pipe.set_progress_bar_config(**getattr(owner, "_progress_bar_config", {}))
    pipe.scheduler = type(owner.scheduler).from_config(owner.scheduler.config)
    return pipe


def _fitting(size: tuple[int, int], pipe: DiffusionPipeline) -> tuple[int, int] | None:
    """Width and height, in pixels, for crops that are too long for a pipeline; None for those that are not."""
    longest, multiple = longest_side(pipe), multiple_of(pipe)
    if longest is None or max(size) <= longest:
        return None
    scale = longest / max(size)
    width, height = (max(multiple, int(side * scale) // multiple * multiple) for side in size)
    return width, height


def _resized(crop: Crop, size: tuple[int, int]) -> Crop:
    mask = Image.fromarray(crop.mask).resize(size, Image.Resampling.NEAREST)
    return replace(crop, image=crop.image.resize(size, Image.Resampling.LANCZOS), mask=np.asarray(mask))


def _stretched(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    channels = [Image.fromarray(channel).resize(size) for channel in np.moveaxis(pixels.astype(np.float32), 2, 0)]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 1)


def _strength(strength: float, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> float:
    """At least one step's worth; of a share that rounding makes none of, the next larger number."""
    own = next((options[name] for name in ("timesteps", "sigmas") if options.get(name) is not None), None)
    usual = takes(pipe)["num_inference_steps"].default
    steps = options.get("num_inference_steps", usual) if own is None else len(own)
    least = 1 / steps
    return max(strength, least if steps * least >= 1 else math.nextafter(least, 1))


def _batches(pipe: DiffusionPipeline, crops: Sequence[Crop]) -> list[list[int]]:
    """Which crops go through a model together: all, unless its prompts must be of one length."""
    if not family_of(pipe).one_length:
        return [list(range(len(crops)))]
    tokenizer = tokenizers_of(pipe)[0]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, crop in enumerate(crops):
        lengths = [len(tokenizer(text, verbose=False).input_ids) for text in (crop.prompt, crop.negative_prompt)]
        groups.setdefault((lengths[0], lengths[1]), []).append(index)
    return list(groups.values())


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Seed the random numbers of those who ask no generator, such as Stable Diffusion 3's ControlNet, for a while."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def _as_it_was(pipe: DiffusionPipeline) -> Iterator[None]:
    """Undo what some pipelines do in half precision: they leave their autoencoder in single precision."""
    dtype = pipe.vae.dtype
    try:
        yield
    finally:
        if pipe.vae.dtype != dtype:
            pipe.vae.to(dtype)


@contextmanager
def _with_config(denoiser: Any, asked: Mapping[str, Any]) -> Iterator[None]:
    """Have entries in a model's config that an inpainting class asks for and the model's class does not have."""
    missing = {name: value for name, value in asked.items() if name not in denoiser.config}
    if not missing:
        yield
        return
    model = getattr(denoiser, "_orig_mod", denoiser)  # of what torch.compile returned
    before = model._internal_dict
    model.register_to_config(**missing)
    try:
        yield
    finally:
        model._internal_dict = before


def _empty(job: PaintJob, *, height: int, width: int) -> Crop:
    """A picture of nothing, to be painted all over."""
    return Crop(
        image=Image.new("RGB", (width, height), (127, 127, 127)),
        mask=np.ones((height, width), dtype=bool),
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        seed=job.seed,
        strength=1.0,
    )


def _seeded(seed: int) -> torch.Generator:
    import torch

    return torch.Generator("cpu").manual_seed(seed)
