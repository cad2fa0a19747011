"""Draw polygons as pixels; all drawing of the micro world is done here.

Every shape is a filled polygon in image coordinates (x to the right, y down, pixel (0, 0) spans [0, 1) x [0, 1)).
Shapes of one thing (one object of the micro world) and layer share one outline: a palm and its fingers look like one
hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refiner.types import Mask

Colour = tuple[int, int, int]
Points = NDArray[np.float64]

SUPERSAMPLING = 4
INK: Colour = (45, 40, 52)
OUTLINE_WIDTH = 2.2
"""Width of the dark line around silhouettes, in pixels; half of it lies outside the polygon."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """One filled polygon; it belongs to a part of a thing."""

    thing: int
    """Index of the thing in its scene."""
    part: str
    """Name of the part, unique within the thing, such as "finger 2"."""
    points: Points = field(repr=False)
    """Float (N, 2), x before y, in pixels."""
    colour: Colour
    layer: int = 0
    """Shapes of one thing and layer share an outline; higher layers are drawn on top."""
    outline: bool = False


@lru_cache(maxsize=64)
def _circle(count: int) -> Points:
    angles = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    """Polygon of an ellipse with centre (x, y) and radii (rx, ry); float (36, 2)."""
    return _circle(36) * (rx, ry) + (x, y)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Polygon of an axis-aligned rectangle; float (4, 2)."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def polygon(*points: tuple[float, float]) -> Points:
    """Polygon with the given corners; float (N, 2)."""
    return np.array(points, dtype=np.float64)


def capsule(x0: float, y0: float, x1: float, y1: float, width: float) -> Points:
    """Polygon of a thick line with round ends; float (24, 2)."""
    angle = np.arctan2(y1 - y0, x1 - x0)
    turns = np.linspace(-np.pi / 2, np.pi / 2, 12)
    cap = np.stack([np.cos(turns + angle), np.sin(turns + angle)], axis=1) * (width / 2)
    return np.concatenate([cap + (x1, y1), -cap + (x0, y0)])


def _layers(shapes: Sequence[Shape]) -> list[list[int]]:
    order: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        order.setdefault((shape.layer, shape.thing), []).append(index)
    return [order[key] for key in sorted(order)]


def _paint(
    draw: ImageDraw.ImageDraw, shapes: Sequence[Shape], inks: Sequence[object], fills: Sequence[object], scale: int
) -> None:
    """Draw outlines in ``inks`` and areas in ``fills``, layer by layer, on a canvas enlarged by ``scale``."""
    for layer in _layers(shapes):
        corners = {index: [tuple(p) for p in (shapes[index].points * scale - 0.5).tolist()] for index in layer}
        for index in layer:
            if shapes[index].outline:
                ring = [*corners[index], *corners[index][:2]]
                draw.line(ring, fill=inks[index], width=round(OUTLINE_WIDTH * scale), joint="curve")  # type: ignore[arg-type]
        for index in layer:
            draw.polygon(corners[index], fill=fills[index])  # type: ignore[arg-type]


def rasterise(shapes: Sequence[Shape], background: Colour, size: int, scale: int = SUPERSAMPLING) -> Image.Image:
    """Draw shapes on a flat background: RGB, ``size`` x ``size``, with ``scale`` x ``scale`` samples a pixel."""
    canvas = Image.new("RGB", (size * scale, size * scale), background)
    _paint(ImageDraw.Draw(canvas), shapes, [INK] * len(shapes), [shape.colour for shape in shapes], scale)
    return canvas.reduce(scale) if scale > 1 else canvas


def coverage(shapes: Sequence[Shape], size: int) -> NDArray[np.float32]:
    """The share of each pixel that each shape covers, with its outline and without hidden parts.

    Returns:
        Float (len(shapes), size, size) in [0, 1].
    """
    scale = SUPERSAMPLING
    canvas = Image.new("I", (size * scale, size * scale), 0)
    labels = list(range(1, len(shapes) + 1))
    _paint(ImageDraw.Draw(canvas), shapes, labels, labels, scale)
    index = np.asarray(canvas).reshape(size, scale, size, scale)
    return np.stack([(index == label).mean(axis=(1, 3), dtype=np.float32) for label in labels])


def visible(shapes: Sequence[Shape], size: int) -> list[Mask]:
    """For each shape, the pixels of which it visibly covers at least a third; bool (size, size)."""
    return [share >= 1 / 3 for share in coverage(shapes, size)]
