"""A call of RefinedPipeline: the images that it makes, what makes them, and what is returned."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadImageError, ConfigError
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.loop import Parts
from refiner.pipelines.painting.caches import PromptCache
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.painting.interrupts import Interrupt
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.pipelines.painting.safety import SafetyChecked
from refiner.pipelines.saving.record import Wrapped
from refiner.types import RefinementResult

if TYPE_CHECKING:
    import torch

    Images = list[Image.Image] | NDArray[np.float32] | torch.Tensor

OutputType = Literal["pil", "np", "pt"]


class RefinedPipelineOutput(NamedTuple):
    """Refined pictures, and how each came about."""

    images: Images
    """As ``output_type`` says: Pillow images, float32 (N, H, W, 3) in [0, 1], or a float32 tensor (N, 3, H, W)."""
    results: list[RefinementResult]
    """One for each image."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the images of one call share."""

    interrupt: Interrupt
    """Ends all of them."""
    prompts: PromptCache


def starts_of(
    prompts: str | Sequence[str],
    count: int,
    *,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    config: RefineConfig | None,
) -> list[tuple[str, int, int]]:
    """Prompt and seed of each image of a call, and its number among those with the same prompt and seed.

    There are ``count`` images of each prompt. Seeds are as given, drawn from generators, the config's, or random.

    Raises:
        ConfigError: seeds and generators at once, or neither one nor one for each image.
    """
    texts = [text for text in ([prompts] if isinstance(prompts, str) else prompts) for _ in range(count)]
    known: Counter[tuple[str, int]] = Counter()
    starts = []
    for text, number in zip(texts, _seeds(len(texts), seed, generator, config), strict=True):
        starts.append((text, number, known[text, number]))
        known[text, number] += 1
    return starts


def _seeds(
    count: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    config: RefineConfig | None,
) -> list[int]:
    if seed is not None and generator is not None:
        raise ConfigError("Expected a seed or a generator, got both: pass one of them.")
    if generator is not None:
        seed = [_draw(one) for one in generator] if isinstance(generator, Sequence) else _draw(generator)
    elif seed is None:
        seed = config.seed if config else secrets.randbits(63)
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(f"Expected one seed or generator, or {count} (one for each picture), got {len(seeds)}.")
    return seeds


def _draw(generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def parts_of(pipe: Wrapped, config: RefineConfig, settings: PaintSettings, prompts: PromptCache | None) -> Parts:
    """What the loop works with for one image.

    Args:
        pipe: the pipelines, and what looks at their images.
        config: of the run.
        settings: of the calls that paint.
        prompts: prompts' embeddings, shared with other images; None: they are not shared.

    Raises:
        ConfigError: an argument that a pipeline cannot take.
    """
    painter = DiffusersPainter(
        pipe.pipe, settings, inpainter=pipe.inpainter, second_stage=pipe.second_stage, prompt_cache=prompts
    )
    painter.check(soft=config.soft_edge > 0)
    pipelines = (pipe.pipe, pipe.inpainter, pipe.second_stage)
    checks_safety = any(getattr(one, "safety_checker", None) is not None for one in pipelines)
    return Parts(
        generator=SafetyChecked(painter) if checks_safety else painter,
        inpainter=CropInpainter(
            painter.paint,
            native=painter.native,
            multiple=painter.multiple,
            cell=painter.cell,
            config=config,
            mark=painter.mark,
        ),
        detector=pipe.detector,
        judge=pipe.judge,
        reviser=pipe.reviser,
    )


def kept_image(result: RefinementResult) -> Image.Image:
    """The picture that was kept.

    Raises:
        BadImageError: there is none.
    """
    best = result.attempts[result.best]
    if best.image is None:
        raise BadImageError(
            f"Expected a picture of {result.prompt!r}, but every attempt failed, at last with: "
            f"{result.attempts[-1].error}"
        )
    return best.image


def converted(images: list[Image.Image], output_type: OutputType) -> Images:
    """Pictures of one size as Pillow images, float32 (N, H, W, 3) in [0, 1], or a float32 tensor (N, 3, H, W)."""
    if output_type == "pil":
        return images
    stacked = np.stack([np.asarray(image, dtype=np.float32) / np.float32(255) for image in images])
    if output_type == "np":
        return stacked
    import torch

    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
