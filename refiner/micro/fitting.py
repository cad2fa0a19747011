"""Fit a thing (one object of the micro world) to an image: its place, its size, and whether another thing fits better.

A fit minimises a robust L1 distance between the image and a render of one thing on its background. The distance is
summed over the thing's cell of the layout and a small margin. The search is first on a coarse grid at half resolution,
then by Gauss-Newton steps at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from refiner.micro.drawing import SUPERSAMPLING, Colour, Shape, rasterise
from refiner.micro.things import COLOURS, KINDS
from refiner.micro.world import RADII, SIZE, Thing

Floats = NDArray[np.float32]
Window = tuple[int, int, int, int]
"""Pixels (x0, y0, x1, y1), half-open."""

SLACK = 6
"""How far outside its cell a thing is searched for, in pixels."""
_CLIP = 60.0
"""Distances are clipped to this, in grey levels, so that a flaw does not shift the fit."""
_REACH = 2.5
"""How far the outline and blur extend outside a thing's square, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A thing at its best place and size."""

    thing: Thing
    cost: float
    """Sum of the clipped distances over the window; lower is better."""


def draw(shapes: list[Shape], ground: Colour, window: Window, scale: int = SUPERSAMPLING) -> Floats:
    """Draw shapes on a flat background inside a window; float32 (height, width, 3) in [0, 255]."""
    x0, y0, x1, y1 = window
    moved = [replace(shape, points=shape.points - (x0, y0)) for shape in shapes]
    side = max(x1 - x0, y1 - y0)
    return np.asarray(rasterise(moved, ground, side, scale), dtype=np.float32)[: y1 - y0, : x1 - x0]


def _distance(first: Floats, second: Floats | Colour) -> Floats:
    red, green, blue = np.moveaxis(np.abs(first - np.asarray(second, dtype=np.float32)), -1, 0)
    return np.minimum((red + green + blue) / 3, _CLIP)  # faster than a mean over the last axis


def square_of(thing: Thing, window: Window = (0, 0, SIZE, SIZE)) -> Window:
    """The pixels of a window that a thing can cover."""
    reach = thing.radius + _REACH
    return (
        max(window[0], int(thing.x - reach)),
        max(window[1], int(thing.y - reach)),
        min(window[2], int(thing.x + reach) + 1),
        min(window[3], int(thing.y + reach) + 1),
    )


class Fitter:
    """Fits things to one window of an image."""

    def __init__(self, pixels: Floats, ground: Colour, cell: tuple[float, float, float, float], count: int) -> None:
        """``pixels`` are float32 (96, 96, 3) in [0, 255]; ``count`` is the number of things in the scene."""
        self._pixels, self._ground = pixels, ground
        self._radii = RADII[count]
        self._plain = _distance(pixels, ground)
        x0, y0 = (max(0, round(value) - SLACK) for value in cell[:2])
        x1, y1 = (min(SIZE, round(value) + SLACK) for value in cell[2:])
        self._window = x0, y0, x1, y1
        self._total = float(self._plain[y0:y1, x0:x1].sum())

    def _reduced(self, scale: int) -> tuple[Floats, tuple[int, int]]:
        """The window reduced by ``scale`` and padded by one repeated pixel, and its upper left corner in the image."""
        x0, y0, x1, y1 = self._window
        x0, y0, x1, y1 = (value - value % scale for value in (x0 + scale - 1, y0 + scale - 1, x1, y1))
        crop = self._pixels[y0:y1, x0:x1]
        small = crop.reshape(crop.shape[0] // scale, scale, crop.shape[1] // scale, scale, 3).mean(axis=(1, 3))
        return np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge"), (x0 - scale, y0 - scale)

    def _cost(self, thing: Thing) -> float:
        square = square_of(thing, self._window)
        x0, y0, x1, y1 = square
        if x0 >= x1 or y0 >= y1:
            return self._total
        drawn = draw(thing.shapes(0, thing.parts(self._ground)), self._ground, square)
        gain = self._plain[y0:y1, x0:x1].sum() - _distance(self._pixels[y0:y1, x0:x1], drawn).sum()
        return self._total - float(gain)

    def _coarse(self, thing: Thing, scale: int) -> Fit:
        """The best place on a grid of ``scale`` pixels, with radii about as far apart; costs are comparable."""
        low, high = self._radii
        seen, corner = self._reduced(scale)
        best, place = 0.0, replace(thing, x=corner[0] + SIZE / 4, y=corner[1] + SIZE / 4, radius=low)
        for radius in np.linspace(low - 1, high + 1, max(2, round((high - low + 2) / scale) + 1)).tolist():
            side = int(np.ceil(2 * (radius + _REACH) / scale))
            if min(seen.shape[:2]) < side:
                continue
            middle = side * scale / 2
            here = replace(thing, x=middle, y=middle, radius=radius)
            shapes = here.shapes(0, here.parts(self._ground))
            drawn = draw(shapes, self._ground, (0, 0, side * scale, side * scale), SUPERSAMPLING // scale)
            template = drawn.reshape(side, scale, side, scale, 3).mean(axis=(1, 3))
            views = sliding_window_view(seen, (side, side), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
            plain = sliding_window_view(_distance(seen, self._ground), (side, side))
            gains = (plain - _distance(views, template)).sum(axis=(2, 3))
            row, column = np.unravel_index(int(gains.argmax()), gains.shape)
            if gains.max() > best:
                best = float(gains.max())
                x, y = corner[0] + scale * int(column) + middle, corner[1] + scale * int(row) + middle
                place = replace(thing, x=x, y=y, radius=radius)
        return Fit(thing=place, cost=self._total - best * scale**2)

    def _slide(self, thing: Thing, blur: float) -> Thing:
        """One Gauss-Newton step of place and size with robust weights, on images blurred by ``blur`` pixels."""
        x0, y0, x1, y1 = window = square_of(thing, self._window)
        drawn = draw(thing.shapes(0, thing.parts(self._ground)), self._ground, window)
        seen = self._pixels[y0:y1, x0:x1]
        if blur:
            drawn, seen = (ndimage.gaussian_filter(each, (blur, blur, 0)) for each in (drawn, seen))
        down, across = np.gradient(drawn, axis=(0, 1))
        rows, columns = np.indices(drawn.shape[:2]) + 0.5
        dy, dx = (rows + y0 - thing.y) / thing.radius, (columns + x0 - thing.x) / thing.radius
        slopes = np.stack([-across, -down, -(across * dx[..., None] + down * dy[..., None])], axis=-1).reshape(-1, 3)
        miss = (seen - drawn).ravel()
        weights = np.where(np.abs(miss) < _CLIP * 1.5, 1 / np.maximum(np.abs(miss), 6.0), 0.0)
        weighted = slopes * weights[:, None]
        step = np.linalg.solve(slopes.T @ weighted + np.eye(3) * 1e-3, weighted.T @ miss).clip(-1.5, 1.5)
        return replace(
            thing,
            x=thing.x + float(step[0]),
            y=thing.y + float(step[1]),
            radius=max(thing.radius + float(step[2]), 8.0),
        )

    def _polish(self, thing: Thing, blurs: tuple[float, ...]) -> Fit:
        """Take Gauss-Newton steps and return the better of the last two results."""
        tried = [thing]
        for blur in blurs:
            tried.append(self._slide(tried[-1], blur))
        costs = [self._cost(each) for each in tried[-2:]]
        best = int(np.argmin(costs))
        return Fit(thing=tried[-2:][best], cost=costs[best])

    def fit(self, thing: Thing) -> Fit:
        """Find the place and size at which the thing fits best."""
        return self._polish(self._coarse(thing, 2).thing, (1.5, 1.5, 1.0, 0.5, 0.0, 0.0))

    def rival(self, thing: Thing) -> Fit:
        """Find the best fit over all kinds, colours, and attributes that have only two values."""
        placed = sorted((self._coarse(other, 4) for other in self._others(thing)), key=lambda fit: fit.cost)
        best = min((self._polish(fit.thing, (2.0, 1.5, 1.0)) for fit in placed[:3]), key=lambda fit: fit.cost).thing
        recoloured = [replace(best, colour=colour) for colour in COLOURS]
        costs = [self._cost(other) for other in recoloured]
        return self._polish(recoloured[int(np.argmin(costs))], (1.0, 0.0))

    def _others(self, thing: Thing) -> Iterator[Thing]:
        x0, y0, x1, y1 = self._window
        crop = self._pixels[y0:y1, x0:x1]
        counts = {name: int((_distance(crop, colour) < 20).sum()) for name, colour in COLOURS.items()}
        colours = {thing.colour, max(counts, key=lambda name: counts[name])}
        for kind in KINDS.values():
            usual = thing.attribute if kind.name == thing.kind else kind.attributes[0]
            attributes = kind.attributes if len(kind.attributes) == 2 else (usual,)
            for attribute in attributes:
                for colour in sorted(colours):
                    yield Thing(kind=kind.name, colour=colour, attribute=attribute)
