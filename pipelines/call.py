"""Helpers for a call of RefinedPipeline: prompts and seeds, the parts of the loop, and the output."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadImageError, ConfigError
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.loop import Parts
from refiner.pipelines.numbers import whole_numbers
from refiner.pipelines.painting.caches import PromptCache
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.painting.interrupts import Interrupt
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings, SafetyChecked
from refiner.pipelines.saving.record import Wrapped
from refiner.types import RefinementResult

if TYPE_CHECKING:
    import torch

    Images = list[Image.Image] | NDArray[np.float32] | torch.Tensor

OutputType = Literal["pil", "np", "pt"]


class RefinedPipelineOutput(NamedTuple):
    """Output of ``RefinedPipeline``: the refined images, and how each was made."""

    images: Images
    """By ``output_type``: Pillow images, a float32 array (N, H, W, 3) or a float32 tensor (N, 3, H, W), in [0, 1]."""
    results: list[RefinementResult]
    """One result for each image, with all attempts."""


class Shared(NamedTuple):
    """State that all images of one call share."""

    interrupt: Interrupt
    prompts: PromptCache


def starts_of(
    prompts: str | Sequence[str],
    count: int,
    *,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    config: RefineConfig | None,
) -> list[tuple[str, int, int]]:
    """List the prompt, seed and index of each image of a call (``count`` images for each prompt).

    The index numbers the images that have the same prompt and seed. A single generator gives one seed for all images.
    Without seeds and generators, the seed of the config is used; without a config, the seed is random.

    Raises:
        ConfigError: both seeds and generators are given, or their number is neither one nor one for each image.
    """
    texts = [text for text in ([prompts] if isinstance(prompts, str) else prompts) for _ in range(count)]
    if seed is not None and generator is not None:
        raise ConfigError("seed and generator cannot both be given: pass only one of them.")
    if generator is not None:
        seed = [_draw(one) for one in generator] if isinstance(generator, Sequence) else _draw(generator)
    elif seed is None:
        seed = config.seed if config else secrets.randbits(63)
    numbers = whole_numbers("seed", seed)
    seeds = [numbers] * len(texts) if isinstance(numbers, int) else numbers
    if len(seeds) != len(texts):
        raise ConfigError(f"Expected one seed or generator, or {len(texts)} (one for each image), got {len(seeds)}.")
    known: Counter[tuple[str, int]] = Counter()
    starts = []
    for text, number in zip(texts, seeds, strict=True):
        starts.append((text, number, known[text, number]))
        known[text, number] += 1
    return starts


def _draw(generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def parts_of(pipe: Wrapped, config: RefineConfig, settings: PaintSettings, prompts: PromptCache | None) -> Parts:
    """Build the parts of the loop for one image; ``prompts`` are embeddings shared with other images, if any.

    Raises:
        ConfigError: a pipeline does not support one of the settings.
    """
    pipelines = (pipe.pipe, pipe.inpainter, pipe.second_stage)
    checks_safety = any(getattr(one, "safety_checker", None) is not None for one in pipelines)
    painter = (SafetyChecked if checks_safety else DiffusersPainter)(
        pipe.pipe, settings, inpainter=pipe.inpainter, second_stage=pipe.second_stage, prompt_cache=prompts
    )
    painter.check(soft=config.soft_edge > 0)
    sides = {"native": painter.native, "multiple": painter.multiple, "cell": painter.cell}
    inpainter = CropInpainter(painter.paint, **sides, config=config, mark=painter.mark)
    return Parts(generator=painter, inpainter=inpainter, detector=pipe.detector, judge=pipe.judge, reviser=pipe.reviser)


def kept_image(result: RefinementResult) -> Image.Image:
    """Return the image that was kept; raise BadImageError if every attempt failed."""
    best = result.attempts[result.best]
    if best.image is None:
        raise BadImageError(
            f"No image of {result.prompt!r} was generated, because every attempt failed; the last error is: "
            f"{result.attempts[-1].error}"
        )
    return best.image


def converted(images: list[Image.Image], output_type: OutputType) -> Images:
    """Convert images of one size to a float32 array (N, H, W, 3) or tensor (N, 3, H, W) in [0, 1]; "pil": unchanged."""
    if output_type == "pil":
        return images
    stacked = np.stack([np.asarray(image, dtype=np.float32) / np.float32(255) for image in images])
    if output_type == "np":
        return stacked
    import torch

    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
