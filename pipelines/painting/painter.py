"""Use diffusers pipelines as generator and inpainter of the loop; their differences are in ``families``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from refiner.errors import BadImageError, ConfigError
from refiner.images import from_unit
from refiner.pipelines.editing.calls import edited
from refiner.pipelines.editing.editors import editor_of
from refiner.pipelines.editing.registration import stretched
from refiner.pipelines.painting import families
from refiner.pipelines.painting.arguments import TEXTS, differ, embeddings_in, for_regions, is_open
from refiner.pipelines.painting.blending import blended
from refiner.pipelines.painting.borrowing import (
    as_it_was,
    chance,
    cleaned_up,
    exclusive,
    own_scheduler,
    replaced,
)
from refiner.pipelines.painting.caches import LatentCache, PromptCache
from refiner.pipelines.painting.controls import control_in
from refiner.pipelines.painting.counting import Tally
from refiner.pipelines.painting.crops import Crop, Painted, Pixels
from refiner.pipelines.painting.generating import batches_of, listed, not_blocked, picture_of, usable
from refiner.pipelines.painting.staggering import staggered
from refiner.pipelines.painting.step_caches import caches_steps, forget_steps, told_steps
from refiner.protocols import PaintJob
from refiner.types import Calls

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """Sizes and options of the pipeline calls."""

    height: int | None = None  # in pixels; None: the side that the model was trained on
    width: int | None = None  # in pixels; None: the side that the model was trained on
    native: int | None = None  # side that the model was trained on, in pixels; None: the pipeline's own value
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the diffusers pipeline's call
    inpaint_options: Mapping[str, Any] = field(default_factory=dict)  # for inpainting; they override options


class DiffusersPainter:
    """Generates images and inpaints crops with one text-to-image pipeline and its weights, or with separate pipelines.

    Calls use the current state of the pipelines (scheduler, device, adapters, progress bar) and do not change it. Calls
    from several threads wait for each other. Each image has a generator on the CPU. So a seed gives the same image in
    any batch, and the same noise on any device.

    Args:
        pipe: generates images from text. A pipeline that can only inpaint inpaints an empty image.
        settings: sizes and options of the calls, for one image.
        inpainter: inpaints crops, with only ``inpaint_options`` and step callbacks; or an edit model, for which the
            prompts of crops are instructions. None: ``pipe`` inpaints.
        second_stage: turns the latents of ``pipe`` into images, starting at ``denoising_end`` of the options, as the
            SDXL refiner does; None: ``pipe`` decodes its latents.
        prompt_cache: prompt embeddings that are shared with other painters; None: a new cache.
        tally: counts the denoiser rows of several painters together; None: of this one alone.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        settings: PaintSettings,
        *,
        inpainter: DiffusionPipeline | None = None,
        second_stage: DiffusionPipeline | None = None,
        prompt_cache: PromptCache | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._pipe = pipe
        self._inpainter = pipe if inpainter is None else inpainter
        self._editor = None if inpainter is None else editor_of(inpainter)
        self._edits = self._editor is not None and not self._editor.masked
        self._second_stage = second_stage
        self._settings = settings
        self._prompts = prompt_cache or PromptCache()
        self._latents = LatentCache()
        self.tally = tally or Tally()

    @property
    def native(self) -> int:
        """Side of the square crops that suit the inpainting model, in pixels."""
        own = families.native_side(self._inpainter) if self._editor is None else self._editor.native
        return self._settings.native or own

    @property
    def cell(self) -> int:
        """Side of the squares that a mask consists of, in pixels."""
        return 1 if self._edits else families.cell_of(self._inpainter)

    @property
    def multiple(self) -> int:
        """Heights and widths are multiples of this many pixels."""
        own = families.multiple_of(self._inpainter)
        return own if self._editor is None else math.lcm(self._editor.multiple, int(self._inpainter.vae_scale_factor))

    def spent(self) -> Calls:
        """Return the denoiser rows (images times denoiser passes, guidance counted) so far."""
        return Calls(denoiser_rows=self.tally.rows)

    def call(self, arguments: Mapping[str, Any], output_type: str, *, seed: int | None = None) -> Any:
        """Call the wrapped pipeline (and the second stage, if any) with exactly these arguments.

        With ``seed``, torch's global random numbers are seeded for the call, for models that use no generator.

        Returns:
            The images of its output, as ``output_type`` ("np", "pt" or "latent") says.
        """
        with (
            self._alone(),
            nullcontext() if seed is None else chance(seed),
        ):
            return self._staged(arguments, output_type)

    def _alone(self) -> AbstractContextManager[None]:
        """Wait for calls of all pipelines in other threads: they share torch's global random numbers."""
        return exclusive(*filter(None, (self._pipe, self._inpainter, self._second_stage)))

    def _staged(self, arguments: Mapping[str, Any], output_type: str) -> Any:
        if self._second_stage is None or output_type == "latent":
            return self._called(self._pipe, {**arguments, "output_type": output_type})
        latents = self._called(self._pipe, {**arguments, "output_type": "latent"})
        known, own = families.takes(self._second_stage), {"height", "width", "denoising_end", "latents"}
        both = {name: value for name, value in arguments.items() if name in known and name not in own}
        handed = {"denoising_start": arguments["denoising_end"]} if "denoising_end" in arguments else {}
        return self._called(self._second_stage, both | handed | {"image": latents, "output_type": output_type})

    def _called(self, pipe: DiffusionPipeline, request: Mapping[str, Any]) -> Any:
        with self.tally.on(pipe), as_it_was(pipe), self._prompts.on(pipe), cleaned_up(pipe):
            forget_steps(pipe)
            return pipe(**request).images

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        """Generate each job in a separate call, so that no image depends on other images, not even by rounding.

        Raises:
            BadImageError: the model returned NaN, or something that is not an image.
        """
        return [self._generate(job) for job in jobs]

    def _generate(self, job: PaintJob) -> Image.Image:
        if families.inpaints(self._pipe):
            options = self._settings.options
            pixels = self._repaint(self._pipe, [_empty(job, **self._size(always=True))], options)[0]
        else:
            pixels = self.call(self._request([job]), "np", seed=job.seed)[0]
        return self.picture(pixels)

    def generate_together(self, jobs: Sequence[PaintJob]) -> list[Image.Image | BadImageError]:
        """Generate jobs in as few calls as the pipeline allows; an unusable image is replaced by its error."""
        made: dict[int, Image.Image | BadImageError] = {}
        for batch in batches_of(self._pipe, jobs, self._settings.options):
            chosen = [jobs[index] for index in batch]
            if len(chosen) == 1:
                made[batch[0]] = usable(self._generate, chosen[0])
                continue
            output = self.call(self._request(chosen), "np", seed=chosen[0].seed)
            if len(output) != len(chosen):
                raise BadImageError(f"The pipeline returned {len(output)} images for {len(chosen)}: check its call.")
            made.update((index, usable(self.picture, pixels)) for index, pixels in zip(batch, output, strict=True))
        return [made[index] for index in range(len(jobs))]

    def picture(self, pixels: Any) -> Image.Image:
        """Convert the pixels of one image that the pipeline generated, float (H, W, 3) in [0, 1], to an RGB image.

        Raises:
            BadImageError: they have another shape, hold NaN, or are black, because the safety checker blocked them.
        """
        picture = picture_of(pixels)
        pipes = (self._pipe, self._inpainter, self._second_stage)
        checked = any(getattr(pipe, "safety_checker", None) is not None for pipe in pipes)
        return not_blocked(picture) if checked else picture

    def _request(self, jobs: Sequence[PaintJob]) -> dict[str, Any]:
        """Build the arguments of the generator's call for one image or several."""
        options = {name: value for name, value in self._settings.options.items() if name != "latents"}
        control = families.family_of(self._pipe).control
        if control is not None and "control_image" in options:
            options[control] = options.pop("control_image")
        generators = [_seeded(job.seed) for job in jobs]
        if len(jobs) == 1:
            return {**options, **self._size(), "generator": generators[0]} | _texts(
                self._pipe, options, jobs, listed=False
            )
        request = {**listed(self._pipe, options, len(jobs)), **self._size(), "generator": generators}
        return request | _texts(self._pipe, options, jobs, listed=True)

    def _size(self, *, always: bool = False) -> dict[str, int]:
        """Return height and width in pixels; empty if nothing is set, so that the pipeline chooses."""
        settings = self._settings
        if not (always or settings.height or settings.width or settings.native):
            return {}
        side = settings.native or families.native_side(self._pipe)
        return {"height": settings.height or side, "width": settings.width or side}

    def check(self, *, soft: bool) -> None:
        """Check what the inpainter can use.

        Raises:
            ConfigError: ``soft`` edges (``RefineConfig.soft_edge``) are wanted and the model cannot do them; or the
                pipeline edits its own images, and the user's reference images would not reach these edits.
        """
        if soft and not families.mixes_strengths(self._inpainter):
            raise ConfigError(
                f"{type(self._inpainter).__name__} supports only hard masks: use soft_edge=0, or an inpainter whose "
                "denoiser takes no mask."
            )
        own = self._editor if self._edits and self._inpainter is self._pipe else None
        if own is not None and self._settings.options.get(own.image) is not None:
            raise ConfigError(
                f"{own.image} has no effect on the regions that {type(self._pipe).__name__} edits as inpainter=, "
                "because the region takes its place: leave inpainter= out, so that regions are inpainted with it."
            )

    def paint(self, crops: Sequence[Crop]) -> list[Painted]:
        """Inpaint crops of one size; returns float (H, W, 3) in [0, 1] for each, or why there is none.

        Raises:
            ConfigError: a crop has different strengths, and the model does not support them.
        """
        painted: dict[int, Painted] = {}
        options = self._inpaint_options()
        if own := self._settings.inpaint_options.get("negative_prompt"):
            texts = (", ".join(filter(None, (own, crop.negative_prompt))) for crop in crops)
            crops = [replace(crop, negative_prompt=text) for crop, text in zip(crops, texts, strict=True)]
        self.check(soft=any(crop.change is not None for crop in crops))
        if self._edits:
            return edited(self._inpainter, crops, options, self._edit)
        for batch in _batches(self._inpainter, crops, options):
            pictures = self._repaint(self._inpainter, [crops[index] for index in batch], options, marked=False)
            painted.update(zip(batch, pictures, strict=False))
        return [painted[index] for index in sorted(painted)]

    def _edit(self, request: Mapping[str, Any], seeds: Sequence[int]) -> list[Pixels]:
        """Call the edit model; a call for one image gets one generator of random numbers."""
        pipe, generators = self._inpainter, [_seeded(seed) for seed in seeds]
        with self._alone(), own_scheduler(pipe), replaced(pipe, "watermark", None), chance(seeds[0]):
            chosen = generators if isinstance(request["prompt"], list) else generators[0]
            return list(self._called(pipe, {**request, "generator": chosen}))

    def mark(self, picture: Image.Image) -> Image.Image:
        """Add the watermark of the inpainting pipeline to an image, if the pipeline has one.

        ``paint`` does not add it, because a watermark that is resized and pasted with a crop cannot be read.
        """
        import torch

        watermark = getattr(self._inpainter, "watermark", None)
        if watermark is None:
            return picture
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        marked = watermark.apply_watermark(pixels)[0].permute(1, 2, 0).float().cpu().numpy()
        return from_unit(marked / 2 + 0.5)

    def _inpaint_options(self) -> dict[str, Any]:
        """Build the options of inpainting; a separate inpainter gets only the callbacks of the generator's options."""
        shared, options = self._inpainter is self._pipe, self._settings.options
        kept = {name: value for name, value in options.items() if shared or name.startswith("callback")}
        return {**kept, **self._settings.inpaint_options}

    def _repaint(
        self, owner: DiffusionPipeline, crops: Sequence[Crop], options: Mapping[str, Any], *, marked: bool = True
    ) -> list[Pixels]:
        """Inpaint crops of one size in one call, with or without the pipeline's watermark."""
        fitting = _fitting(crops[0].image.size, owner)
        if fitting is not None:
            painted = self._repaint(owner, [crop.resized(fitting) for crop in crops], options, marked=marked)
            return [stretched(pixels, crops[0].image.size) for pixels in painted]
        family = families.family_of(owner)
        pipe = repainter(owner, controlled=control_in(options, family.control) is not None)
        strengths = [_strength(crop.strength * crop.peak, pipe, options) for crop in crops]
        cell, strength = families.cell_of(owner), max(strengths)
        shares = np.stack([crop.shares(own, cell) for crop, own in zip(crops, strengths, strict=True)])
        request = _region_request(pipe, crops, options)
        with self._alone(), ExitStack() as stack:
            stack.enter_context(cleaned_up(owner))
            if family.one_area:
                stack.enter_context(
                    replaced(pipe, "default_sample_size", families.sample_size(pipe, crops[0].image.size))
                )
            if not marked:
                stack.enter_context(replaced(pipe, "watermark", None))
            if families.inpaints(pipe):
                request |= {"strength": strength, **_masked(pipe, crops)}
                stack.enter_context(own_scheduler(pipe))
                if families.mixes_strengths(owner):
                    stack.enter_context(staggered(pipe, shares, cell=cell, strength=strength))
            else:
                images = [crop.image for crop in crops]
                blending = blended(pipe, images, shares, strength=strength, layout=families.family_of(pipe).layout)
                stack.enter_context(blending)
            for changed in (self.tally.on(pipe), as_it_was(pipe), self._prompts.on(pipe), self._latents.on(pipe)):
                stack.enter_context(changed)
            forget_steps(pipe)
            stack.enter_context(told_steps(pipe, self._pipe, self._inpainter))
            stack.enter_context(chance(crops[0].seed))
            return list(pipe(**request).images)


def repainter(owner: DiffusionPipeline, *, controlled: bool = False) -> DiffusionPipeline:
    """Return the pipeline that inpaints for ``owner``: itself, or its family's twin class with the same components.

    With ``controlled``, the call gets a control image, so that a ControlNet pipeline inpaints itself.
    """
    cls = families.twin_of(owner)
    if cls is None or controlled:
        return owner
    known = {**owner.config, **owner.components}
    wanted = inspect.signature(cls).parameters
    pipe = cls(**{name: known[name] for name in wanted if name in known})
    pipe.scheduler = owner.scheduler  # constructors of pipelines replace schedulers with an outdated config
    if hasattr(owner, "watermark"):
        pipe.watermark = owner.watermark
    if hasattr(owner, "pag_applied_layers"):
        pipe.set_pag_applied_layers(owner.pag_applied_layers, owner._pag_attn_processors)
    pipe.encode_prompt = owner.encode_prompt  # it may be overridden by a subclass or on the instance
    pipe.set_progress_bar_config(**getattr(owner, "_progress_bar_config", {}))
    return pipe


def _region_request(pipe: DiffusionPipeline, crops: Sequence[Crop], options: Mapping[str, Any]) -> dict[str, Any]:
    """Build the arguments of a call that inpaints crops of one size, without images and masks."""
    width, height = crops[0].image.size
    listed = not families.family_of(pipe).single
    request = for_regions(pipe, options, crops) | _texts(pipe, options, crops, listed=listed)
    request |= {"height": height, "width": width, "generator": [_seeded(crop.seed) for crop in crops]}
    request |= {"output_type": "np", **families.family_of(pipe).fixed(height, width)}
    known = families.takes(pipe)
    return request if is_open(pipe) else {name: value for name, value in request.items() if name in known}


def _texts(
    pipe: DiffusionPipeline, options: Mapping[str, Any], jobs: Sequence[PaintJob | Crop], *, listed: bool
) -> dict[str, Any]:
    """Build the prompts of a call; embeddings that the user gave are used in place of texts.

    An explicit negative prompt is passed on even if it is empty or None, because it may switch guidance on or off.
    """

    def one_or_all(texts: list[str]) -> str | list[str]:
        return texts if listed else texts[0]

    made: dict[str, Any] = {}
    if embeddings_in(options) is None:
        made["prompt"] = one_or_all([job.prompt for job in jobs])
        for name in TEXTS:
            if all(name in job.texts for job in jobs):
                made[name] = one_or_all([job.texts[name] for job in jobs])
    negative = [job.negative_prompt for job in jobs]
    taken = "negative_prompt" in families.takes(pipe) and embeddings_in(options, "negative_") is None
    needed = listed and families.family_of(pipe).negatives
    if taken and (needed or any(negative) or options.get("negative_prompt") is not None):
        made["negative_prompt"] = one_or_all(negative)
    return made


def _masked(pipe: DiffusionPipeline, crops: Sequence[Crop]) -> dict[str, Any]:
    """Build the images and masks of a call that takes them."""
    import torch

    masks = [crop.mask if crop.change is None else crop.mask & (crop.change > 0) for crop in crops]
    made: dict[str, Any] = {"image": [crop.image for crop in crops]}
    made["mask_image"] = [Image.fromarray(mask).convert("L") for mask in masks]
    # diffusers would encode the masked images even for a UNet that ignores them.
    unused = hasattr(pipe, "unet") and pipe.unet.config.in_channels == 4
    if unused and "masked_image_latents" in families.takes(pipe):
        made["masked_image_latents"] = torch.zeros(len(crops), 4, 1, 1)
    return made


def _fitting(size: tuple[int, int], pipe: DiffusionPipeline) -> tuple[int, int] | None:
    """Return a smaller width and height, in pixels, if crops are too long for a pipeline; otherwise None."""
    longest, multiple = families.longest_side(pipe), families.multiple_of(pipe)
    if longest is None or max(size) <= longest:
        return None
    scale = longest / max(size)
    width, height = (max(multiple, int(side * scale) // multiple * multiple) for side in size)
    return width, height


def _strength(strength: float, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> float:
    """Raise a strength to at least one step; the least value is rounded up, so that it never gives no step."""
    own = next((options[name] for name in ("timesteps", "sigmas") if options.get(name) is not None), None)
    usual = families.takes(pipe)["num_inference_steps"].default
    steps = options.get("num_inference_steps", usual) if own is None else len(own)
    least = 1 / steps
    return max(strength, least if steps * least >= 1 else math.nextafter(least, 1))


_PARTLY = ("control_guidance_start", "control_guidance_end")
"""Options that are a share of a call's steps, so that all its rows must have the same strength."""


def _batches(pipe: DiffusionPipeline, crops: Sequence[Crop], options: Mapping[str, Any]) -> list[list[int]]:
    """Group the crops that go through a model in one batch: all, unless their prompts or strengths must match.

    With a cache of steps, each crop is alone, because such caches decide for the whole batch what to compute again.
    """
    family = families.family_of(pipe)
    mixed = families.mixes_strengths(pipe) and not any(name in options for name in _PARTLY)
    cached = caches_steps(pipe)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, crop in enumerate(crops):
        kind: list[Any] = [differ(options, crop)]
        kind += [] if mixed else [crop.strength]
        kind += [index] if family.single or family.alone(options) or cached else []
        if family.one_length and embeddings_in(options) is None:
            tokenizer = families.tokenizers_of(pipe)[0]
            kind += [families.tokens_of(tokenizer, text) for text in (crop.prompt, crop.negative_prompt)]
        groups.setdefault(tuple(kind), []).append(index)
    return list(groups.values())


def _empty(job: PaintJob, *, height: int, width: int) -> Crop:
    """Build an empty (grey) crop that is inpainted completely."""
    return Crop(
        image=Image.new("RGB", (width, height), (127, 127, 127)),
        mask=np.ones((height, width), dtype=bool),
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        texts=job.texts,
        seed=job.seed,
        strength=1.0,
    )


def _seeded(seed: int) -> torch.Generator:
    import torch

    return torch.Generator("cpu").manual_seed(seed)
