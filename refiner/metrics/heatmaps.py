"""X-AIGD's heat map protocol: does a real-or-generated classifier look where the artifacts are?

A saliency map for the class "generated" (Grad-CAM of CNNs, relevance maps of ViTs) is binarised at 0.5 and compared
with the category-agnostic mask like any PAD prediction (arXiv 2601.19430, its diagnosis of detectors). Not stated
there, and our reading: the map is stretched to [0, 1] by its own least and largest value first, and then brought to
the image's size bilinearly, as pytorch-grad-cam does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError
from refiner.metrics.localization import PixelCounts, count_pixels
from refiner.types import Mask, Size

VERSION = 1
"""Grows when equal input may give other numbers."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """How a map becomes a mask."""

    threshold: float = 0.5
    """Values above it are flawed; in the map's unit after ``stretch``."""
    stretch: Literal["minmax", "none"] = "minmax"
    """Each map to [0, 1] by its least and largest value, or maps that lie in [0, 1] as they are."""

    @property
    def signature(self) -> str:
        """Every choice, so that equal signatures compare."""
        return f"heatmap|version={VERSION}|stretch={self.stretch}|resize=bilinear|threshold>{self.threshold:g}|flat=0"


def heatmap_mask(heatmap: Floats, size: Size, config: HeatmapConfig | None = None) -> Mask:
    """The mask that a heat map stands for.

    Args:
        heatmap: float (h, w) of any size. A flat one says nothing: with ``stretch="minmax"`` nothing is flawed.
        size: of the image.
        config: defaults to the protocol's.

    Returns:
        bool (H, W) of ``size``.

    Raises:
        InputError: the map is empty, of other dimensions or not finite; or not in [0, 1] where it is not stretched.
    """
    config = config or HeatmapConfig()
    if heatmap.ndim != 2 or not heatmap.size or not np.isfinite(heatmap).all():
        raise InputError(
            f"Expected a heat map (h, w) of finite numbers, got shape {heatmap.shape} with "
            f"{int(np.count_nonzero(~np.isfinite(heatmap)))} NaN or infinite ones: leave this image out."
        )
    low, high = float(heatmap.min()), float(heatmap.max())
    if config.stretch == "none":
        if low < 0 or high > 1:
            raise InputError(f"Expected a heat map in [0, 1], got {low:g} to {high:g}: stretch it with 'minmax'.")
        return resize_bilinear(heatmap, size) > config.threshold
    if low == high:
        return np.zeros(tuple(size), dtype=np.bool_)
    stretched = (heatmap.astype(np.float64) - low) / (high - low)
    return resize_bilinear(stretched, size) > config.threshold


def compare_heatmap(heatmap: Floats, truth: Mask, config: HeatmapConfig | None = None) -> PixelCounts:
    """Counts of a heat map against the bool (H, W) truth; add them up with ``refiner.metrics.localization``."""
    return count_pixels(heatmap_mask(heatmap, Size(*truth.shape), config), truth)


def resize_bilinear(values: Floats, size: Size) -> NDArray[np.float64]:
    """A float (h, w) array at another size: pixel centres, no antialias, as in torch (``align_corners=False``)."""
    (top, bottom, down), (left, right, across) = (
        _neighbours(old, new) for old, new in zip(values.shape, size, strict=True)
    )
    rows = values[top] * (1 - down)[:, None] + values[bottom] * down[:, None]
    columns: NDArray[np.float64] = rows[:, left] * (1 - across) + rows[:, right] * across
    return columns


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = places.astype(np.int64)
    return first, np.minimum(first + 1, old - 1), places - first
