"""The base class of grounders, which make masks from boxes and points, and the code that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from refiner.detectors.grounding.inside import SLACK, inside
from refiner.errors import BadAnswerError, InputError
from refiner.masks import clip_box
from refiner.types import Box, Mask, Size

Point = tuple[float, float, bool]
"""x and y in pixels, and whether the point is on the thing (True) or not (False)."""
Source = Literal["model", "grabcut", "box"]

GROWTH = 0.1
"""A mask may extend beyond its box by this share of the box's sides, and by at least 2 pixels."""
SPECK = 0.1
"""Connected parts of a mask that are smaller than this share of its largest part are dropped."""
_POINT_REACH = 1 / 16
"""Margin of the box around points without a box, as a share of the image's longer side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """The mask of one thing. Only the pixels of its window are stored, so that thousands of masks fit into memory."""

    size: Size
    """Of the image."""
    window: Box
    """Position of ``patch`` in the image, half-open."""
    patch: Mask
    """Bool, of the window's height and width."""
    score: float | None
    """The grounder's estimate of the IoU of the mask and the thing, in [0, 1]; None if it gives none."""
    source: Source
    """What made the mask: a model, the colours of the image (GrabCut), or only the box, which is filled."""

    @property
    def mask(self) -> Mask:
        """The mask of the whole image, bool (H, W), never empty."""
        whole = np.zeros(tuple(self.size), dtype=np.bool_)
        x0, y0, x1, y1 = self.window
        whole[y0:y1, x0:x1] = self.patch
        return whole


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The box and points of one thing, checked and clipped to the image."""

    size: Size
    box: Box | None
    points: tuple[Point, ...] = ()

    @property
    def stand_in(self) -> Box:
        """The box, or a small one around the points that are on the thing."""
        if self.box is not None:
            return self.box
        reach = max(self.size) * _POINT_REACH
        x, y = ([point[axis] for point in self.points if point[2]] for axis in (0, 1))
        box = clip_box((min(x) - reach, min(y) - reach, max(x) + reach, max(y) + reach), self.size)
        assert box is not None  # its middle is inside
        return box

    @property
    def window(self) -> Box:
        """Where the mask may be: the box grown by ``GROWTH``, or the whole image if there are only points."""
        return (0, 0, self.size.width, self.size.height) if self.box is None else grow(self.box, self.size, GROWTH)


def grow(box: Box, size: Size, share: float) -> Box:
    """Grow a box on each side by ``share`` of its sides, at least by 2 pixels, and clip it to the image."""
    x0, y0, x1, y1 = box
    across, down = (max(2, round(share * side)) for side in (x1 - x0, y1 - y0))
    return max(0, x0 - across), max(0, y0 - down), min(size.width, x1 + across), min(size.height, y1 + down)


def read_prompts(
    size: Size, boxes: Sequence[Sequence[float]] | None, points: Sequence[Sequence[Point]] | None
) -> list[Prompt]:
    """Check the boxes and points of ``Grounder.segment``; raises its errors."""
    if boxes is not None and points is not None and len(boxes) != len(points):
        raise InputError(
            f"Expected the points of each of {len(boxes)} boxes, got {len(points)} lists of points: "
            "pass an empty list for a box without points."
        )
    count = len(boxes if boxes is not None else points or ())
    places = [None] * count if boxes is None else [_read_box(box, size) for box in boxes]
    marks: list[tuple[Point, ...]] = [()] * count if points is None else [_read_points(each, size) for each in points]
    if boxes is None and not all(any(point[2] for point in each) for each in marks):
        raise BadAnswerError("Expected a box or at least one point on each thing, got neither: give one of them.")
    return [Prompt(size=size, box=place, points=each) for place, each in zip(places, marks, strict=True)]


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float | np.number) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _read_box(box: Sequence[float], size: Size) -> Box:
    values = tuple(box) if isinstance(box, Sequence | np.ndarray) else (box,)
    usable = len(values) == 4 and all(map(_is_finite, values)) and values[0] < values[2] and values[1] < values[3]
    near = inside(values, (size.width, size.height)) if usable else None
    clipped = None if near is None else clip_box(near, size)
    if clipped is None:
        raise BadAnswerError(
            f"Expected a box (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1 that overlaps the image of "
            f"{size.width}x{size.height} and leaves it by at most {SLACK:.0%} of a side, got {values!r:.120}: omit or "
            "correct it."
        )
    return clipped


def _read_points(points: Sequence[Point], size: Size) -> tuple[Point, ...]:
    for point in points:
        x, y, _ = point if isinstance(point, Sequence) and len(point) == 3 else (None, None, None)
        if not (_is_finite(x) and _is_finite(y) and 0 <= x < size.width and 0 <= y < size.height):
            raise BadAnswerError(
                f"Expected points (x, y, on the thing or not) inside the image of {size.width}x{size.height}, "
                f"got {point!r:.120}: omit or correct it."
            )
    return tuple((float(x), float(y), bool(inside)) for x, y, inside in points)


def to_segment(prompt: Prompt, patch: Mask, score: float | None, source: Source) -> Segment:
    """Make the segment of a mask in ``prompt.window``, without specks; if nothing is left, it is the filled box."""
    kept = without_specks(patch)
    if not kept.any():
        return box_segment(prompt)
    return Segment(size=prompt.size, window=prompt.window, patch=kept, score=score, source=source)


def box_segment(prompt: Prompt) -> Segment:
    """Make the segment of the filled box."""
    x0, y0, x1, y1 = prompt.stand_in
    filled = np.ones((y1 - y0, x1 - x0), dtype=np.bool_)
    return Segment(size=prompt.size, window=prompt.stand_in, patch=filled, score=None, source="box")


def without_specks(mask: Mask) -> Mask:
    """Keep the largest connected part (8 neighbours) of a mask, and all parts of at least ``SPECK`` of its area."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    if count < 2:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept: Mask = (areas >= max(1.0, SPECK * areas.max()))[labels]
    return kept


def thickened(image: Image.Image, ratio: int) -> Image.Image:
    """Pad a thin RGB image with copies of its last row or column, until its sides differ at most by ``ratio``.

    Networks that keep proportions would scale a thinner image to zero pixels.
    """
    least = -(-max(image.size) // ratio)
    down, right = max(0, least - image.height), max(0, least - image.width)
    if not down and not right:
        return image
    return Image.fromarray(np.pad(np.asarray(image), ((0, down), (0, right), (0, 0)), mode="edge"))


class Grounder(ABC):
    """Base class of grounders. One thing is given by a box, by points, or by both (``boxes[i]`` with ``points[i]``)."""

    name: str
    """Id and revision; a fallback without a model is named as such."""
    encoded: int = 0
    """Number of runs of the model's image encoder since construction."""

    def segment(
        self,
        image: Image.Image,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        points: Sequence[Sequence[Point]] | None = None,
    ) -> list[Segment]:
        """Make one segment for each thing, in the same order. Equal prompts give the same object.

        Args:
            image: any mode; converted to RGB.
            boxes: (x0, y0, x1, y1) in pixels, half-open; a part outside the image is cut off, up to ``inside.SLACK`` of
                the side.
            points: for each thing its points; without a box, at least one of them must be on the thing.

        Raises:
            BadAnswerError: a box is not finite, reversed, empty, completely outside the image or farther outside than
                ``inside.SLACK``; a point is outside the image; or the model's masks are not finite.
            InputError: ``boxes`` and ``points`` have different lengths.
        """
        prompts = read_prompts(Size(image.height, image.width), boxes, points)
        distinct = list(dict.fromkeys(prompts))
        drawn = dict(zip(distinct, self._draw(image.convert("RGB"), distinct), strict=True)) if distinct else {}
        return [drawn[prompt] for prompt in prompts]

    @abstractmethod
    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        """One segment for each of the distinct, checked prompts; ``image`` is RGB."""


class BoxGrounder(Grounder):
    """A grounder without a model: each mask is the filled box, or a small box around the points."""

    name = "box (fallback without a model)"

    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        return [box_segment(prompt) for prompt in prompts]
