"""FakeXplain's region IoU: sets of boxes compared by the exact area that they cover, without a raster.

The paper (ICLR 2026) rewards ``IoU(R(o), R_y)`` of region sets without more details. The default compares the union of
the predicted boxes with that of the true ones. Overlaps count once, so splitting a region gains nothing. A one-to-one
matching is the alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError

Boxes = Sequence[Sequence[float]]
RegionRule = Literal["union", "matched"]

VERSION = 1
"""Increases when the same input can give other numbers."""


def region_iou(predicted: Boxes, truth: Boxes, region: RegionRule = "union") -> float:
    """Intersection over union of two sets of boxes, in [0, 1]; 0 if either covers nothing.

    Args:
        predicted: (x0, y0, x1, y1) each, half-open, in any unit; boxes without area are ignored.
        truth: the same, in the same unit.
        region: ``union`` compares the covered areas. ``matched`` matches boxes one to one with the largest sum of IoUs,
            and divides the sum by the larger number of boxes.

    Raises:
        ConfigError: a box is not four finite numbers, or ``region`` is unknown.
    """
    if region not in get_args(RegionRule):
        raise ConfigError(f"Expected a region of {', '.join(get_args(RegionRule))}; got {region!r}: name one of these.")
    ours, theirs = _checked(predicted), _checked(truth)
    if not len(ours) or not len(theirs):
        return 0.0
    if region == "union":
        # on the grid of all edges
        edges = np.concatenate((ours, theirs))
        columns, rows = np.unique(edges[:, [0, 2]]), np.unique(edges[:, [1, 3]])
        cells = np.outer(np.diff(rows), np.diff(columns))
        predicted_cells, true_cells = (_covered(boxes, rows, columns) for boxes in (ours, theirs))
        return float(cells[predicted_cells & true_cells].sum()) / float(cells[predicted_cells | true_cells].sum())
    from scipy.optimize import linear_sum_assignment

    scores = _pairwise_iou(ours, theirs)
    best = linear_sum_assignment(scores, maximize=True)
    return float(scores[best].sum()) / max(len(ours), len(theirs))


def _checked(boxes: Boxes) -> NDArray[np.float64]:
    """Boxes with area, float (N, 4)."""
    try:
        array = np.asarray(boxes, dtype=np.float64).reshape(len(boxes), 4)
        if not np.isfinite(array).all():
            raise ValueError("NaN or infinity")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Expected boxes of four finite numbers (x0, y0, x1, y1), got {boxes!r:.200}: leave others out."
        ) from error
    solid: NDArray[np.float64] = array[(array[:, 0] < array[:, 2]) & (array[:, 1] < array[:, 3])]
    return solid


def _covered(boxes: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.bool_]:
    mask = np.zeros((len(rows) - 1, len(columns) - 1), dtype=np.bool_)
    lefts, rights = np.searchsorted(columns, boxes[:, 0]), np.searchsorted(columns, boxes[:, 2])
    tops, bottoms = np.searchsorted(rows, boxes[:, 1]), np.searchsorted(rows, boxes[:, 3])
    for top, bottom, left, right in zip(tops, bottoms, lefts, rights, strict=True):
        mask[top:bottom, left:right] = True
    return mask


def _pairwise_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    scores: NDArray[np.float64] = inside / (areas[0][:, None] + areas[1][None, :] - inside)
    return scores
