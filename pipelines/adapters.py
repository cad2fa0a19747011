"""diffusers pipelines as the loop's generator and inpainter. A new family is a new row of ``FAMILIES``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refiner.errors import BadImageError, ConfigError
from refiner.pipelines.inpainting import Crop, Pixels
from refiner.protocols import PaintJob
from refiner.types import Calls

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between families of text-to-image pipelines."""

    inpaint: str
    """Name of the inpainting class in diffusers."""
    denoiser: str = "unet"
    """Name of the component that is called at every step."""
    rows: str = "sample"
    """Name of its first argument, whose rows are counted."""
    multiple: int = 8
    """Heights and widths are multiples of this many pixels."""


FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": Family(inpaint="StableDiffusionInpaintPipeline"),
    "StableDiffusionXLPipeline": Family(inpaint="StableDiffusionXLInpaintPipeline"),
}
"""By the name of a text-to-image class in diffusers; subclasses belong to the family of their nearest ancestor."""


def family_of(pipe: DiffusionPipeline) -> Family:
    """The family of a pipeline.

    Raises:
        ConfigError: none of its classes is in ``FAMILIES``.
    """
    for ancestor in type(pipe).__mro__:
        if ancestor.__name__ in FAMILIES:
            return FAMILIES[ancestor.__name__]
    raise ConfigError(
        f"Expected a pipeline of one of {', '.join(FAMILIES)}, got {type(pipe).__name__}: use one of them."
    )


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """How pictures are painted."""

    height: int | None = None  # pixels; None: the model's native side
    width: int | None = None  # pixels; None: the model's native side
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the diffusers pipeline's call


class DiffusersPainter:
    """Generates pictures and paints crops with one text-to-image pipeline, whose weights both share.

    The pipeline is used as it is at the time of each call (scheduler, device, adapters, progress bar) and left as
    it was. Random numbers are drawn on the CPU, one generator for each picture: the same seed paints the same picture
    in any batch and starts from the same noise on any device.
    """

    def __init__(self, pipe: DiffusionPipeline, settings: PaintSettings) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        self._settings = settings
        self._rows = 0

    @property
    def native(self) -> int:
        """Side of the square pictures that the model was trained on, in pixels."""
        side = getattr(self._pipe, self._family.denoiser).config.sample_size
        return (side if isinstance(side, int) else max(side)) * self.cell

    @property
    def cell(self) -> int:
        """Side of a latent cell, in pixels."""
        return int(self._pipe.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Heights and widths are multiples of this many pixels."""
        return max(self._family.multiple, self.cell)

    def spent(self) -> Calls:
        """Denoiser rows of all pictures and crops so far."""
        return Calls(denoiser_rows=self._rows)

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        """Paint each job on its own, so that no picture depends on its neighbours, not even by rounding.

        Raises:
            BadImageError: the model returned NaN.
        """
        return [self._generate(job) for job in jobs]

    def _generate(self, job: PaintJob) -> Image.Image:
        with self._counting():
            output = self._pipe(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt or None,
                height=self._settings.height or self.native,
                width=self._settings.width or self.native,
                generator=_seeded(job.seed),
                output_type="np",
                **self._settings.options,
            )
        pixels = np.asarray(output.images[0])
        if not np.isfinite(pixels).all():
            raise BadImageError("Expected finite pixels from the generator, got NaN: try another dtype.")
        return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))

    def paint(self, crops: Sequence[Crop]) -> list[Pixels]:
        """Repaint crops of one size and one strength in one call; float (H, W, 3) in [0, 1] each."""
        pipe = self._inpaint_pipe()
        known = inspect.signature(type(pipe).__call__).parameters
        width, height = crops[0].image.size
        with self._counting():
            output = pipe(
                prompt=[crop.prompt for crop in crops],
                negative_prompt=[crop.negative_prompt for crop in crops] if crops[0].negative_prompt else None,
                image=[crop.image for crop in crops],
                mask_image=[Image.fromarray(crop.mask).convert("L") for crop in crops],
                height=height,
                width=width,
                strength=self._strength(crops[0].strength),
                generator=[_seeded(crop.seed) for crop in crops],
                output_type="np",
                **{name: value for name, value in self._settings.options.items() if name in known},
            )
        self._pipe.maybe_free_model_hooks()
        return list(output.images)

    def _strength(self, strength: float) -> float:
        """At least one step's worth."""
        default = inspect.signature(type(self._pipe).__call__).parameters["num_inference_steps"].default
        return max(strength, 1 / self._settings.options.get("num_inference_steps", default))

    def _inpaint_pipe(self) -> DiffusionPipeline:
        """The family's inpainting pipeline over the very same components; a scheduler of its own, set up alike.

        The scheduler is set afterwards, because the constructors rewrite the settings of those they find outdated.
        """
        import diffusers

        cls = getattr(diffusers, self._family.inpaint)
        scheduler = self._pipe.scheduler
        known = {**self._pipe.config, **self._pipe.components, "scheduler": None}
        wanted = inspect.signature(cls.__init__).parameters
        pipe = cls(**{name: known[name] for name in wanted if name in known})
        pipe.scheduler = type(scheduler).from_config(scheduler.config)
        if hasattr(self._pipe, "watermark"):
            pipe.watermark = self._pipe.watermark
        pipe.set_progress_bar_config(**getattr(self._pipe, "_progress_bar_config", {}))
        return pipe

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count the rows that pass through the denoiser."""

        def count(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._rows += len(args[0] if args else kwargs[self._family.rows])

        handle = getattr(self._pipe, self._family.denoiser).register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _seeded(seed: int) -> torch.Generator:
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def count_tokens(pipe: DiffusionPipeline) -> tuple[Callable[[str], int], int]:
    """How many tokens a text has for the text encoder that reads most of it, and how many any of them can read."""
    tokenizers = _tokenizers(pipe)

    def count(text: str) -> int:
        return max(len(tokenizer(text, verbose=False).input_ids) for tokenizer in tokenizers)

    return count, min(tokenizer.model_max_length for tokenizer in tokenizers)


_SMALL_VOCABULARY = 5000
"""A tokenizer with at most so many entries serves a text encoder that was trained on few words (CLIP has 49408)."""


def reads_free_text(pipe: DiffusionPipeline) -> bool:
    """Whether the text encoders know more than the few words of a narrow world."""
    return all(len(tokenizer) > _SMALL_VOCABULARY for tokenizer in _tokenizers(pipe))


def _tokenizers(pipe: DiffusionPipeline) -> list[Any]:
    return [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part is not None]
