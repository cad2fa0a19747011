"""Pixel counts as numbers of a sample, and their totals over samples; of masks, and of heat maps."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from refiner.evaluate.figures import Columns, Figures
from refiner.metrics.heatmaps import HeatmapConfig, compare_heatmap
from refiner.metrics.localization import PixelCounts, PixelTotals
from refiner.types import Analysis, Mask

COUNTS: Final = tuple(item.name for item in fields(PixelCounts))
_SUMS: Final = tuple(item.name for item in fields(PixelTotals) if item.name != "counts")
_HEATMAP: Final = "heatmap_"


def pixel_row(counts: PixelCounts, prefix: str = "") -> Figures:
    """The counts of a sample, and the figures that are summed over samples; ``prefix`` begins their names."""
    totals = PixelTotals.of(counts)
    row = asdict(counts) | {name: float(getattr(totals, name)) for name in _SUMS}
    return {f"{prefix}{name}": value for name, value in row.items()}


def pixel_totals(columns: Columns, chosen: NDArray[np.bool_], prefix: str = "") -> PixelTotals:
    """The totals of the chosen samples, bool (samples,), from the columns of ``pixel_row``."""
    counts = PixelCounts(**{name: int(columns[f"{prefix}{name}"][chosen].sum()) for name in COUNTS})
    sums: dict[str, Any] = {name: float(columns[f"{prefix}{name}"][chosen].sum()) for name in _SUMS}
    sums |= {name: int(sums[name]) for name in ("images", "silent")}
    return PixelTotals(counts=counts, **sums)


def heatmap_row(found: Analysis, truth: Mask, config: HeatmapConfig) -> Figures:
    """The counts of a heat map against the bool (H, W) truth; empty without a heat map."""
    return {} if found.heatmap is None else pixel_row(compare_heatmap(found.heatmap, truth, config), _HEATMAP)


def heatmap_figures(columns: Columns) -> Figures:
    """X-AIGD's figures over the samples that have a heat map, pooled and per image; empty if none has one."""
    if f"{_HEATMAP}images" not in columns:
        return {}
    totals = pixel_totals(columns, ~np.isnan(columns[f"{_HEATMAP}images"]), _HEATMAP)
    figures = {**totals.pad(), **{f"{name}_per_image": value for name, value in totals.pad_per_image().items()}}
    return {f"{_HEATMAP}{name}": value for name, value in {"images": totals.images, **figures}.items()}
