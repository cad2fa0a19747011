"""What a call of RefinedPipeline gives back: the kept pictures, in the form that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadImageError
from refiner.types import RefinementResult

if TYPE_CHECKING:
    import torch

    Images = list[Image.Image] | NDArray[np.float32] | torch.Tensor

OutputType = Literal["pil", "np", "pt"]


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
