"""The grounding room: from boxes and points to masks.

``load_grounder("sam:PATH")`` gives a model of the SAM family (``refiner.detectors.grounding.sam``), ``"grabcut"`` and
``"box"`` need no weights. A mask that no model drew says so in ``Segment.source``. Words to boxes are found in
``refiner.detectors.grounding.text``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from refiner.errors import BadAnswerError, InputError
from refiner.masks import clip_box
from refiner.types import Box, Mask, Size

if TYPE_CHECKING:
    pass

Point = tuple[float, float, bool]
"""x and y in pixels, and whether the thing is there (True) or is not (False)."""
Source = Literal["model", "grabcut", "box"]

GROWTH = 0.1
"""A mask may leave its box by this share of the box's sides, by 2 pixels at least."""
SPECK = 0.1
"""Parts of a mask that are smaller than this share of its largest part are dropped."""
_POINT_REACH = 1 / 16
"""Half the side of the box that stands for points alone, as a share of the image's longer side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """The pixels of one thing. Only its window is kept, so that thousands of them fit into memory."""

    size: Size
    """Of the image."""
    window: Box
    """Where ``patch`` lies in the image, half-open."""
    patch: Mask
    """Bool, of the window's height and width."""
    score: float | None
    """The grounder's guess of the mask's IoU with the thing, in [0, 1]; None where it has none."""
    source: Source
    """Who drew it: the model, the colours of the picture (GrabCut), or nobody: it is the filled box."""

    @property
    def mask(self) -> Mask:
        """Bool (H, W) at the image's own size, never empty."""
        whole = np.zeros(tuple(self.size), dtype=np.bool_)
        x0, y0, x1, y1 = self.window
        whole[y0:y1, x0:x1] = self.patch
        return whole


@runtime_checkable
class Grounder(Protocol):
    """Draws masks. One thing is asked for by a box, by points, or by both (``boxes[i]`` with ``points[i]``)."""

    @property
    def name(self) -> str:
        """Id and revision; says so where it is a fallback without a model."""
        ...

    @property
    def encoded(self) -> int:
        """Images that went through the model's encoder since construction."""
        ...

    def segment(
        self,
        image: Image.Image,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        points: Sequence[Sequence[Point]] | None = None,
    ) -> list[Segment]:
        """One segment for each thing asked for, in the same order.

        Args:
            image: any mode; read as RGB.
            boxes: (x0, y0, x1, y1) in pixels, half-open; what lies outside the image is cut off.
            points: for each thing its points; without a box at least one of them is on the thing.

        Raises:
            BadAnswerError: a box is not finite, reversed, empty or wholly outside; a point is outside; or the model's
                masks are not finite.
            InputError: ``boxes`` and ``points`` are of different length.
        """
        ...

    def batch(
        self,
        images: Sequence[Image.Image],
        *,
        boxes: Sequence[Sequence[Sequence[float]]] | None = None,
        points: Sequence[Sequence[Sequence[Point]]] | None = None,
    ) -> list[list[Segment]]:
        """The same answers as one ``segment`` call each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One thing to be drawn, checked and cut to the image."""

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
        """Where the mask may lie: the box and a little more; the whole image where there are only points."""
        return (0, 0, self.size.width, self.size.height) if self.box is None else grow(self.box, self.size, GROWTH)


def grow(box: Box, size: Size, share: float) -> Box:
    """A box with ``share`` of its sides, and 2 pixels at least, added on every side, cut to the image."""
    x0, y0, x1, y1 = box
    across, down = (max(2, round(share * side)) for side in (x1 - x0, y1 - y0))
    return max(0, x0 - across), max(0, y0 - down), min(size.width, x1 + across), min(size.height, y1 + down)


def read_prompts(
    size: Size, boxes: Sequence[Sequence[float]] | None, points: Sequence[Sequence[Point]] | None
) -> list[Prompt]:
    """Check what ``Grounder.segment`` is asked for; raises what it names."""
    if boxes is not None and points is not None and len(boxes) != len(points):
        raise InputError(
            f"Expected the points of each of {len(boxes)} boxes, got {len(points)} lists of points: "
            "pass an empty list for a box without points."
        )
    count = len(boxes if boxes is not None else points or ())
    places = [None] * count if boxes is None else [_read_box(box, size) for box in boxes]
    marks: list[tuple[Point, ...]] = [()] * count if points is None else [_read_points(each, size) for each in points]
    if boxes is None and not all(any(point[2] for point in each) for each in marks):
        raise BadAnswerError("Expected a box or at least one point on each thing, got neither: name where it is.")
    return [Prompt(size=size, box=place, points=each) for place, each in zip(places, marks, strict=True)]


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float | np.number) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _read_box(box: Sequence[float], size: Size) -> Box:
    values = tuple(box) if isinstance(box, Sequence | np.ndarray) else (box,)
    usable = len(values) == 4 and all(map(_is_finite, values)) and values[0] < values[2] and values[1] < values[3]
    clipped = clip_box(values, size) if usable else None
    if clipped is None:
        raise BadAnswerError(
            f"Expected a box (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1 that meets the image of "
            f"{size.width}x{size.height}, got {values!r:.120}: leave it out or mend it."
        )
    return clipped


def _read_points(points: Sequence[Point], size: Size) -> tuple[Point, ...]:
    for point in points:
        x, y, _ = point if isinstance(point, Sequence) and len(point) == 3 else (None, None, None)
        if not (_is_finite(x) and _is_finite(y) and 0 <= x < size.width and 0 <= y < size.height):
            raise BadAnswerError(
                f"Expected points (x, y, on the thing or not) inside the image of {size.width}x{size.height}, "
                f"got {point!r:.120}: leave it out or mend it."
            )
    return tuple((float(x), float(y), bool(inside)) for x, y, inside in points)


def to_segment(prompt: Prompt, patch: Mask, score: float | None, source: Source) -> Segment:
    """The segment of a mask drawn in ``prompt.window``: specks dropped, the box itself where nothing is left."""
    kept = without_specks(patch)
    if not kept.any():
        return box_segment(prompt)
    return Segment(size=prompt.size, window=prompt.window, patch=kept, score=score, source=source)


def box_segment(prompt: Prompt) -> Segment:
    """The filled box."""
    x0, y0, x1, y1 = prompt.stand_in
    filled = np.ones((y1 - y0, x1 - x0), dtype=np.bool_)
    return Segment(size=prompt.size, window=prompt.stand_in, patch=filled, score=None, source="box")


def without_specks(mask: Mask) -> Mask:
    """The largest connected part (8 neighbours) of a mask and all parts of at least ``SPECK`` of its area."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    if count < 2:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept: Mask = (areas >= max(1.0, SPECK * areas.max()))[labels]
    return kept


def thickened(image: Image.Image, ratio: int) -> Image.Image:
    """The RGB image with copies of its last row or column below or to the right until no side is ``ratio`` times the
    other; networks that keep proportions would scale a thinner one to nothing."""
    least = -(-max(image.size) // ratio)
    down, right = max(0, least - image.height), max(0, least - image.width)
    if not down and not right:
        return image
    return Image.fromarray(np.pad(np.asarray(image), ((0, down), (0, right), (0, 0)), mode="edge"))


class BaseGrounder(ABC):
    """What all grounders share: reading the picture and the prompts, and asking for each thing once."""

    name: str
    encoded: int = 0

    def segment(
        self,
        image: Image.Image,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        points: Sequence[Sequence[Point]] | None = None,
    ) -> list[Segment]:
        """See ``Grounder.segment``. The same prompt twice is drawn once, and gives the same object."""
        prompts = read_prompts(Size(image.height, image.width), boxes, points)
        distinct = list(dict.fromkeys(prompts))
        drawn = dict(zip(distinct, self._draw(image.convert("RGB"), distinct), strict=True)) if distinct else {}
        return [drawn[prompt] for prompt in prompts]

    def batch(
        self,
        images: Sequence[Image.Image],
        *,
        boxes: Sequence[Sequence[Sequence[float]]] | None = None,
        points: Sequence[Sequence[Sequence[Point]]] | None = None,
    ) -> list[list[Segment]]:
        """See ``Grounder.batch``: image by image, so that no answer depends on its neighbours.

        Raises:
            InputError: not one list of boxes, or of points, for each image.
        """
        for given in (boxes, points):
            if given is not None and len(given) != len(images):
                raise InputError(f"Expected boxes or points for each of {len(images)} images, got {len(given)} lists.")
        return [
            self.segment(
                image,
                boxes=None if boxes is None else boxes[index],
                points=None if points is None else points[index],
            )
            for index, image in enumerate(images)
        ]

    @abstractmethod
    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        """One segment for each of the distinct, checked prompts; ``image`` is RGB."""


class BoxGrounder(BaseGrounder):
    """No grounding at all: each mask is its box, or a small box around its points."""

    name = "box (fallback without a model)"

    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        return [box_segment(prompt) for prompt in prompts]
