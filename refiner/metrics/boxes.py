"""FakeXplain's region IoU: sets of boxes compared by the exact area that they cover, without a raster.

The paper (ICLR 2026) rewards ``IoU(R(o), R_y)`` of region sets and says no more. Default is the union of the predicted
boxes against that of the true ones; a one-to-one matching is offered by name. Overlapping boxes count once, so cutting
a region into pieces gains nothing.
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
"""Grows when equal input may give other numbers."""


def region_iou(predicted: Boxes, truth: Boxes, region: RegionRule = "union") -> float:
    """Intersection over union of two sets of boxes, in [0, 1]; 0 where either covers nothing.

    Args:
        predicted: (x0, y0, x1, y1) each, half-open, in any unit; boxes without area count for nothing.
        truth: the same, in the same unit.
        region: ``union`` compares the areas covered; ``matched`` pairs boxes one to one so that the sum of their
            IoUs is largest, and divides it by the larger number of boxes.

    Raises:
        ConfigError: a box is not four finite numbers, or ``region`` is unknown.
    """
    if region not in get_args(RegionRule):
        raise ConfigError(f"Expected a region of {', '.join(get_args(RegionRule))}; got {region!r}: name one of these.")
    ours, theirs = _checked(predicted), _checked(truth)
    if not len(ours) or not len(theirs):
        return 0.0
    if region == "union":
        both, either = _areas(ours, theirs)
        return both / either
    from scipy.optimize import linear_sum_assignment

    scores = _pairwise_iou(ours, theirs)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return float(scores[rows, columns].sum()) / max(len(ours), len(theirs))


def _checked(boxes: Boxes) -> NDArray[np.float64]:
    """Boxes with area, float (N, 4)."""
    try:
        array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if len(boxes) else np.zeros((0, 4))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Expected boxes of four numbers (x0, y0, x1, y1), got {boxes!r:.200}.") from error
    if len(array) != len(boxes) or not np.isfinite(array).all():
        raise ConfigError(f"Expected boxes of four finite numbers (x0, y0, x1, y1), got {boxes!r:.200}.")
    solid: NDArray[np.float64] = array[(array[:, 0] < array[:, 2]) & (array[:, 1] < array[:, 3])]
    return solid


def _areas(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Areas covered by both of two sets and by either, on the grid that all edges together draw."""
    edges = np.concatenate((first, second))
    columns, rows = np.unique(edges[:, [0, 2]]), np.unique(edges[:, [1, 3]])
    cells = np.outer(np.diff(rows), np.diff(columns))
    ours, theirs = (_covered(boxes, rows, columns) for boxes in (first, second))
    return float(cells[ours & theirs].sum()), float(cells[ours | theirs].sum())


def _covered(boxes: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.bool_]:
    mask = np.zeros((max(0, len(rows) - 1), max(0, len(columns) - 1)), dtype=np.bool_)
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
