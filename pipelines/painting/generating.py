"""Which images can be generated in one call, its arguments, and the images that it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from refiner.errors import BadImageError
from refiner.images import from_unit
from refiner.pipelines.painting import families
from refiner.pipelines.painting.arguments import embeddings_in, kind_of
from refiner.pipelines.painting.step_caches import caches_steps
from refiner.protocols import PaintJob

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

T = TypeVar("T")

_ALONE = ("row", "layers", "control")
"""Kinds of arguments that have something for each image, so that images with them are generated one by one."""


def batches_of(pipe: DiffusionPipeline, jobs: Sequence[PaintJob], options: Mapping[str, Any]) -> list[list[int]]:
    """Group the numbers of the jobs that one call can generate.

    Args:
        pipe: generates the images.
        jobs: the images; they share the options.
        options: arguments of the call for one image.
    """
    family, groups = families.family_of(pipe), dict[tuple[Any, ...], list[int]]()
    own = any(kind_of(name, pipe) in _ALONE for name, value in options.items() if value is not None)
    alone = own or family.single or family.alone(options) or caches_steps(pipe) or families.inpaints(pipe)
    for index, job in enumerate(jobs):
        kind: list[Any] = [sorted(job.texts), bool(job.negative_prompt), *([index] if alone else [])]
        if family.one_length and embeddings_in(options) is None:
            tokenizer = families.tokenizers_of(pipe)[0]
            kind += [families.tokens_of(tokenizer, text) for text in (job.prompt, job.negative_prompt)]
        groups.setdefault((str(kind),), []).append(index)
    return list(groups.values())


def listed(pipe: DiffusionPipeline, options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Repeat the texts and reference images of one image for several."""
    return {
        name: [value] * count if value is not None and kind_of(name, pipe) in ("text", "images") else value
        for name, value in options.items()
    }


def usable(make: Callable[[T], Image.Image], given: T) -> Image.Image | BadImageError:
    """Make an image; if it is unusable, return the error."""
    try:
        return make(given)
    except BadImageError as error:
        return error


def not_blocked(picture: Image.Image) -> Image.Image:
    """Return an image of a pipeline with a safety checker; raise BadImageError if the checker made it black."""
    if picture.getbbox() is None:
        raise BadImageError(
            "The generated image is black, because the safety checker blocked it: use another seed or prompt."
        )
    return picture


def picture_of(pixels: Any) -> Image.Image:
    """Convert the pixels of one image, float (H, W, 3) in [0, 1], to an RGB image.

    Raises:
        BadImageError: they have another shape, or hold NaN.
    """
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{type(pixels).__name__} of shape {tuple(getattr(pixels, 'shape', ()))}"
        raise BadImageError(
            f"The generator returned {got} instead of an array (H, W, 3): its call must take output_type='np'."
        )
    if not np.isfinite(pixels).all():
        raise BadImageError("The generator returned NaN pixels: use another dtype.")
    return from_unit(pixels)
