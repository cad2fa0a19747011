"""Read boxes as models write them, and convert them to pixels of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from refiner.detectors.grounding.inside import inside
from refiner.errors import ConfigError
from refiner.masks import clip_box
from refiner.types import Box, Size

Scale = Literal["unit", "thousand", "pixels"]
"""Unit of a coordinate: shares of the side, thousandths of the side, or pixels of the image as shown to the model."""
Order = Literal["xyxy", "yxyx"]

MAX_BOXES = 20
"""Only this many boxes of a region are kept: the first ones."""
_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
_NUMBER = re.compile(r"-?\d{1,9}(?:\.\d{1,9})?")

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class BoxFormat:
    """How a family of models writes boxes. Qwen3-VL uses thousandths, Qwen2.5-VL pixels, Gemini y before x."""

    scale: Scale = "thousand"
    order: Order = "xyxy"
    """Order of the four numbers of a list; boxes with named sides do not need it."""

    def __post_init__(self) -> None:
        for name, value, kind in (("scale", self.scale, Scale), ("order", self.order, Order)):
            if value not in get_args(kind):
                known = " or ".join(map(repr, get_args(kind)))
                raise ConfigError(f"Expected BoxFormat.{name} {known}, got {value!r}: choose one of these.")

    @classmethod
    def parse(cls, text: str, usual: BoxFormat | None = None) -> BoxFormat:
        """Read a scale, with an order behind it if it differs from ``usual``, such as ``pixels`` or ``thousand-yxyx``.

        Raises:
            ConfigError: there is no such scale or order.
        """
        scale, dash, order = text.partition("-")
        return replace(usual or cls(), scale=scale, **({"order": order} if dash else {}))  # type: ignore[arg-type]


def read_boxes(value: Any, form: BoxFormat) -> list[Corners]:
    """Read the boxes (x0, y0, x1, y1) in a value of an answer, in the answer's scale; empty if there are none.

    The value may be four numbers or numerals, two points, named sides, x, y, width and height, a text with four
    numbers, or a list of these. Corners in the wrong order are swapped. Boxes with NaN or infinity are omitted.
    """
    one = _box(value, form)
    if one is not None:
        return [one]
    if not isinstance(value, list):
        return []
    return [box for item in value[:MAX_BOXES] if (box := _box(item, form)) is not None]


def place_boxes(
    answer: Sequence[Sequence[Corners]], size: Size, form: BoxFormat, shown: Size
) -> list[list[Box] | list[None]]:
    """Convert the boxes of each region, in the answer's scale, to pixels of an image that was shown at size ``shown``.

    A box up to ``grounding.inside.SLACK`` outside the image is clipped. A region without a box that is reliable and not
    farther outside gets a single None: it is unplaced. The scale is ``unit`` if that fits all boxes and a coordinate
    has decimals. Otherwise it is the family's scale, unless that does not fit all boxes and exactly one other does.
    """
    scale = _scale([box for boxes in answer for box in boxes], form.scale, shown)
    placed = ([inside for box in boxes if (inside := _place(box, size, scale, shown))] for boxes in answer)
    return [own or [None] for own in placed]


def _scale(boxes: Sequence[Corners], family: Scale, shown: Size) -> Scale:
    fitting: list[Scale] = [scale for scale in get_args(Scale) if all(_fits(box, scale, shown) for box in boxes)]
    if "unit" in fitting and any(value != int(value) for box in boxes for value in box):
        return "unit"
    if family in fitting:
        return family
    return fitting[0] if len(fitting) == 1 else family


def full_sides(scale: Scale, size: Size) -> tuple[float, float]:
    """Return the full width and height in units of ``scale``."""
    if scale == "pixels":
        return float(size.width), float(size.height)
    return (1.0, 1.0) if scale == "unit" else (1000.0, 1000.0)


def _fits(box: Corners, scale: Scale, shown: Size) -> bool:
    return inside(box, full_sides(scale, shown)) is not None


def _place(box: Corners, size: Size, scale: Scale, shown: Size) -> Box | None:
    sides = full_sides(scale, shown)
    clipped = inside(box, sides)
    if clipped is None:
        return None
    across, down = size.width / sides[0], size.height / sides[1]
    pixels = (clipped[0] * across, clipped[1] * down, clipped[2] * across, clipped[3] * down)
    return clip_box([round(value, 6) for value in pixels], size)


def _box(value: Any, form: BoxFormat) -> Corners | None:
    if isinstance(value, dict):
        return _named(value)
    if isinstance(value, str):
        value = _NUMBER.findall(value[:200])
    if not isinstance(value, list):
        return None
    if len(value) == 2 and all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [*value[0], *value[1]]
    numbers = [_number(item) for item in value] if len(value) == 4 else []
    if len(numbers) != 4 or any(number is None for number in numbers):
        return None
    a, b, c, d = (number for number in numbers if number is not None)
    return _ordered((b, a, d, c) if form.order == "yxyx" else (a, b, c, d))


def _named(sides: dict[str, Any]) -> Corners | None:
    known = {"".join(c for c in key.lower() if c.isalnum()): _number(value) for key, value in sides.items()}
    for names in _CORNERS:
        numbers = [number for name in names if (number := known.get(name)) is not None]
        if len(numbers) == 4:
            return _ordered((numbers[0], numbers[1], numbers[2], numbers[3]))
    x, y = known.get("x"), known.get("y")
    width = known.get("width", known.get("w"))
    height = known.get("height", known.get("h"))
    if x is None or y is None or width is None or height is None or width < 0 or height < 0:
        return None
    return x, y, x + width, y + height


def _ordered(box: Corners) -> Corners:
    x0, y0, x1, y1 = box
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _number(value: Any) -> float | None:
    """Return a finite number with an absolute value below 1e9, or None."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e9 else None
