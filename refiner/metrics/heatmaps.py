"""X-AIGD's heat map protocol: does a real-or-generated classifier respond to the artifacts?

A saliency map for the class "generated" (Grad-CAM of CNNs, relevance maps of ViTs) is binarised at 0.5 and compared
with the category-agnostic mask like any PAD prediction (arXiv 2601.19430, its diagnosis of detectors). The paper does
not state how maps are scaled. We first stretch the map to [0, 1] by its minimum and maximum, and then resize it to the
image bilinearly, as pytorch-grad-cam does.
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
"""Increases when the same input can give other numbers."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """How a map becomes a mask."""

    threshold: float = 0.5
    """Values above it, after ``stretch``, are flawed."""
    stretch: Literal["minmax", "none"] = "minmax"
    """``minmax``: each map to [0, 1] by its minimum and maximum. ``none``: maps in [0, 1] are used unchanged."""

    @property
    def signature(self) -> str:
        """Every choice; figures with equal signatures are comparable."""
        return f"heatmap|version={VERSION}|stretch={self.stretch}|resize=bilinear|threshold>{self.threshold:g}|flat=0"


def heatmap_mask(heatmap: Floats, size: Size, config: HeatmapConfig | None = None) -> Mask:
    """Turn a heat map into a mask.

    Args:
        heatmap: float (h, w) of any size. With ``stretch="minmax"`` a constant map gives an empty mask.
        size: of the image.
        config: None means that of the protocol.

    Returns:
        bool (H, W) of ``size``.

    Raises:
        InputError: the map is empty, has other dimensions or is not finite, or is neither stretched nor in [0, 1].
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
    """Compare a heat map with the bool (H, W) truth."""
    return count_pixels(heatmap_mask(heatmap, Size(*truth.shape), config), truth)


def resize_bilinear(values: Floats, size: Size) -> NDArray[np.float64]:
    """A float (h, w) array at another size, like torch with ``align_corners=False`` and without antialias."""
    import torch

    tensor = torch.from_numpy(values.astype(np.float64))[None, None]
    resized = torch.nn.functional.interpolate(tensor, tuple(size), mode="bilinear", align_corners=False)
    return np.asarray(resized[0, 0])
