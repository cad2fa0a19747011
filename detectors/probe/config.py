"""The configuration of a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MODEL_TYPE: Final = "refiner_probe"
"""``model_type`` in a probe's ``config.json``."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe; saved with its weights."""

    generator: str
    """Id of the pipeline whose denoiser the probe was trained on."""
    channels: int
    """Number of channels of the features."""
    parts: tuple[str, ...]
    """All parts that may be flawed, as ``kind: part``."""
    categories: tuple[str, ...]
    """For each part, the category of its flaws."""
    colours: tuple[str, ...]
    """Colours of the things that the parts belong to."""
    timestep: int = 150  # noise level of the image
    draws: int = 2  # noise samples; the features are averaged over them
    width: int = 96  # channels inside the probe
    threshold: float = 0.4  # minimum probability of a pixel in a region
    least_cells: float = 0.75  # smallest region, in latent cells
