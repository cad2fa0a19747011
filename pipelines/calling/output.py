"""The output of RefinedPipeline. It is an output of diffusers, so this module needs torch and diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput

from refiner.types import RefinementResult


@dataclass
class RefinedPipelineOutput(BaseOutput):
    """Output of ``RefinedPipeline``: the refined images, and how each was made."""

    images: Any
    """By ``output_type``: Pillow images, an array (N, H, W, 3) or a tensor (N, 3, H, W) in [0, 1], or latents. Only the
    images that could be generated, in order."""
    results: list[RefinementResult]
    """One result for each requested image, with all attempts."""
