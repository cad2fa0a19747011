"""X-AIGD's instance-level matching of predicted boxes with outlined artifacts (official protocol of 2026).

The instances of a category in an image are the connected parts of its mask after one dilation by 5x5 pixels, each cut
back to the mask. A box finds an instance if more than ``overlap`` of the box's own area lies on it. This is not IoU,
and not one to one. Found instances are tp, the others fn, boxes that find nothing fp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.problems import Problem
from refiner.data.tables import read_csv
from refiner.errors import ConfigError
from refiner.masks import box_of
from refiner.metrics.counts import Hits
from refiner.taxonomy import XaigdCategory
from refiner.types import Mask, Size

VERSION = 1
"""Increases when the same input can give other numbers."""
DEFAULT_OVERLAP = 0.5

FloatBox = tuple[float, float, float, float]
BoxKey = tuple[str, str, str]
"""Generator, uid and category."""

_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS = ("generator", "uid", "category", *_CORNERS)


@dataclass(frozen=True, kw_only=True)
class InstanceCounts(Hits):
    """Instances and boxes of one image and category, or of many. ``fp`` includes invalid boxes."""

    invalid: int = 0
    """Boxes outside the image or without area. As in the official protocol, only counted if there are instances."""
    images: int = 0
    silent: int = 0
    """Images without a box."""


def find_instances(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """The instances of a bool (H, W) mask: int32 (H, W), the number of each pixel's instance or 0; and their count."""
    from scipy import ndimage

    labels = np.zeros(mask.shape, dtype=np.int32)
    box = box_of(mask)
    if box is None:
        return labels, 0
    inside = slice(box[1], box[3]), slice(box[0], box[2])
    spread = ndimage.maximum_filter(mask[inside], size=5, mode="constant")
    parts, count = ndimage.label(spread, structure=np.ones((3, 3)))
    labels[inside] = np.where(mask[inside], parts, 0)
    return labels, count


def match_boxes(mask: Mask, boxes: Sequence[FloatBox], overlap: float = DEFAULT_OVERLAP) -> InstanceCounts:
    """Match the boxes of one image and category.

    Args:
        mask: the category's truth, bool (H, W).
        boxes: (x_min, y_min, x_max, y_max) in pixels, half-open; fractions are cut off. NaN makes a box invalid.
        overlap: share of a box's area that must be exceeded, in [0, 1].

    Raises:
        ConfigError: ``overlap`` is out of its range.
    """
    if not 0 <= overlap <= 1:
        raise ConfigError(f"Expected an overlap in [0, 1], got {overlap!r}: name a share of the box's area.")
    silent = int(not boxes)
    labels, count = find_instances(mask)
    if not count:
        return InstanceCounts(fp=len(boxes), images=1, silent=silent)
    found = np.zeros(count, dtype=np.bool_)
    missed = invalid = 0
    for box in boxes:
        whole = _whole_box(box, Size(*mask.shape))
        if whole is None:
            invalid += 1
            continue
        x0, y0, x1, y1 = whole
        pixels = np.bincount(labels[y0:y1, x0:x1].ravel(), minlength=count + 1)[1:]
        hit = pixels / ((x1 - x0) * (y1 - y0)) > overlap
        found |= hit
        missed += not hit.any()
    tp = int(found.sum())
    return InstanceCounts(tp=tp, fp=missed + invalid, fn=count - tp, invalid=invalid, images=1, silent=silent)


def _whole_box(box: FloatBox, size: Size) -> tuple[int, int, int, int] | None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size.width and 0 <= y0 < y1 <= size.height):
        return None
    left, top, right, bottom = int(x0), int(y0), int(x1), int(y1)
    return (left, top, right, bottom) if left < right and top < bottom else None


def read_boxes(path: str | Path, problems: list[Problem]) -> dict[BoxKey, list[FloatBox]]:
    """Read predictions: CSV with the columns generator, uid, category, x_min, y_min, x_max, y_max.

    A row with an unknown category or with coordinates that are not numbers is added to ``problems`` and left out. A row
    with NaN or infinity is added too, and kept as an invalid box.

    Raises:
        InputError: the file is missing, is not CSV, or lacks a column.
    """
    boxes: dict[BoxKey, list[FloatBox]] = {}
    for number, row in read_csv(path, _COLUMNS, "boxes"):
        where = f"line {number}, {row['generator']}/{row['uid']}"
        if row["category"] not in list(XaigdCategory):
            detail = f"expected a category of X-AIGD, got {row['category']!r}"
            problems.append(Problem("unknown_category", str(path), where, detail))
            continue
        try:
            x0, y0, x1, y1 = (float(row[name]) for name in _CORNERS)
        except ValueError:
            detail = f"expected four numbers, got {[row[name] for name in _CORNERS]}"
            problems.append(Problem("bad_box", str(path), where, detail))
            continue
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            problems.append(Problem("not_finite", str(path), where, "NaN or infinity in a box; it counts as wrong"))
        boxes.setdefault((row["generator"], row["uid"], row["category"]), []).append((x0, y0, x1, y1))
    return boxes


def instance_row(counts: InstanceCounts, generator: str, category: str, overlap: float) -> dict[str, Any]:
    """A row of the official table."""
    return {
        "generator": generator,
        "category": category,
        f"P@{overlap:g}": counts.precision,
        f"R@{overlap:g}": counts.recall,
        f"F1@{overlap:g}": counts.f1,
        "TP": counts.tp,
        "FP": counts.fp,
        "FN": counts.fn,
        "evaluated_images": counts.images,
        "zero_prediction_images": counts.silent,
        "invalid_prediction_boxes": counts.invalid,
    }
