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
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.data.problems import Problem
from refiner.data.tables import read_csv
from refiner.errors import ConfigError
from refiner.masks import box_of
from refiner.metrics.counts import Hits
from refiner.taxonomy import XaigdCategory
from refiner.types import Mask, Size

VERSION = 2
"""Increases when the same input can give other numbers."""
DEFAULT_OVERLAP = 0.5
_REACH: Final = 5
"""Rows or columns that two pixels of one instance can be apart: twice the two of the dilation, and one."""

FloatBox = tuple[float, float, float, float]
BoxKey = tuple[str, str, str]
"""Generator, uid and category."""

_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS = ("generator", "uid", "category", *_CORNERS)


@dataclass(frozen=True, kw_only=True)
class InstanceCounts(Hits):
    """Instances and boxes of one image and category, or of many. ``fp`` includes invalid boxes."""

    invalid: int = 0
    """Boxes outside the image or without area, whether or not there are instances."""
    images: int = 0
    silent: int = 0
    """Images without a box."""


class Instances(NamedTuple):
    """The instances of a mask as horizontal runs of pixels, sorted by row, then from left to right."""

    rows: NDArray[np.int64]
    """(N,), of each run."""
    starts: NDArray[np.int64]
    """(N,), its first column."""
    stops: NDArray[np.int64]
    """(N,), the column after its last one."""
    owners: NDArray[np.int64]
    """(N,), its instance, from 0 on."""
    number: int
    """Of instances."""

    def inside(self, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        """Pixels of each instance inside (x0, y0, x1, y1), half-open; float64 (number,), whole numbers."""
        x0, y0, x1, y1 = box
        first, last = np.searchsorted(self.rows, (y0, y1))
        covered = np.minimum(self.stops[first:last], x1) - np.maximum(self.starts[first:last], x0)
        sums = np.bincount(self.owners[first:last], np.maximum(covered, 0), minlength=self.number)
        return sums.astype(np.float64)


def find_instances(mask: Mask) -> Instances:
    """The instances of a bool (H, W) mask.

    The 5x5 neighbourhoods of two pixels touch if neither rows nor columns are more than five apart. So two runs belong
    together if their rows are at most five apart, with at most four columns between the runs. This took a quarter of
    the time of ``scipy.ndimage.label`` on the dilated mask.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, starts, stops = _runs(mask)
    far = mask.shape[1] + 2 * _REACH  # from the runs of a row to those of the next one, beyond reach
    wanted = rows + np.arange(_REACH + 1)[:, None]
    first = np.searchsorted(rows * far + stops, wanted * far + starts - _REACH, side="right")
    last = np.searchsorted(rows * far + starts, wanted * far + stops + _REACH, side="left")
    numbers = np.maximum(last - first, 0).ravel()
    one = np.repeat(np.tile(np.arange(len(rows)), _REACH + 1), numbers)
    other = np.arange(len(one)) + np.repeat(first.ravel() - np.cumsum(numbers) + numbers, numbers)
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(rows), len(rows)))
    count, owners = connected_components(graph, directed=False)
    return Instances(rows, starts, stops, owners, int(count))


def _runs(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, first column and column after the last one of each run of a bool (H, W) mask."""
    box = box_of(mask)
    if box is None:
        return (np.zeros(0, dtype=np.int64),) * 3
    x0, y0, x1, y1 = box
    wide = np.zeros((y1 - y0, x1 - x0 + 2), dtype=np.bool_)
    wide[:, 1:-1] = mask[y0:y1, x0:x1]
    changes = np.flatnonzero(wide.ravel()[1:] != wide.ravel()[:-1])
    rows, starts = np.divmod(changes[::2], wide.shape[1])
    return rows + y0, starts + x0, changes[1::2] - rows * wide.shape[1] + x0


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
    instances = find_instances(mask)
    found = np.zeros(instances.number, dtype=np.bool_)
    missed = invalid = 0
    for box in boxes:
        whole = _whole_box(box, Size(*mask.shape))
        if whole is None:
            invalid += 1
            continue
        x0, y0, x1, y1 = whole
        hit = instances.inside(whole) / ((x1 - x0) * (y1 - y0)) > overlap
        found |= hit
        missed += not hit.any()
    tp = int(found.sum())
    missing = instances.number - tp
    return InstanceCounts(tp=tp, fp=missed + invalid, fn=missing, invalid=invalid, images=1, silent=int(not boxes))


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
