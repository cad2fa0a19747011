"""What a probe looks at, and what it can say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MODEL_TYPE: Final = "refiner_probe"
"""``model_type`` in a probe's ``config.json``."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe; saved beside its weights."""

    generator: str
    """Id of the pipeline whose denoiser it was trained on."""
    channels: int
    """Of the features."""
    parts: tuple[str, ...]
    """``kind: part`` of everything that may be flawed."""
    categories: tuple[str, ...]
    """Category of a flaw of each part."""
    colours: tuple[str, ...]
    """Of the things that the parts belong to."""
    timestep: int = 150  # to which the picture is noised
    draws: int = 2  # of the noise, over which features are averaged
    width: int = 96  # channels inside the probe
    threshold: float = 0.4  # probability from which a pixel belongs to a region
    least_cells: float = 0.75  # smallest region, in latent cells
