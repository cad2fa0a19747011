"""The referee: finds what in an image of the micro world does not fit its caption, and where.

It uses only the image and the caption: no detector, no refinement loop, no seed. The detectors and the judge (the model
that scores an image against its prompt) are trained on its findings for training images
(``training/world/flaws.py``). They do not use it at run time.

It fits the place and size of every thing, an object of the micro world (``fitting.py``), and renders the scene with
them. It compares the image with the render in two ways. Both tolerate displacements of about one pixel, and more for
large things:

- every *part* (a finger, a pupil, a tick, a letter, a shadow) must be visible: if the image looks as if the part is
  missing, the part is unsupported;
- every *pixel* must be explained: connected pixels that no part of the scene causes are a blob.

Unsupported parts and blobs that touch are one flaw. A thing that is missing, or has another kind or colour, is one flaw
that covers its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from refiner.errors import InputError
from refiner.masks import union
from refiner.micro.drawing import rasterise
from refiner.micro.fitting import Fit, Fitter, Floats, Window, draw, square_of
from refiner.micro.residue import LEAST_PIXELS, Residue
from refiner.micro.things import PLACES
from refiner.micro.world import SIZE, Scene, cells, parse_caption
from refiner.types import Mask, Size

_TINT = 8.0
"""Grey levels by which a decoder may shift the colour of the whole image."""
_JITTER = 0.125
"""Error of a fit, in pixels; thin lines look different after such a shift."""
_UNSUPPORTED = 0.4
"""A part is not visible if the image lacks more than this share of what the part adds to it."""
_GARBLED = 0.3
"""A letter is garbled if the image differs there by more than this share of what the letter adds."""
_RUINED = 0.6
"""A thing is not recognised if parts that make up more than this share of it are not visible."""
_SUSPICIOUS = 0.75
"""A thing that explains a smaller share of its cell than this is compared with other kinds and colours."""
_PRESENT = 0.35
"""A thing is missing if the content of its cell is not more than this share of what the thing would add."""
_CLEARLY = 0.85
"""Another kind or colour is better if its fit costs less than this share of the thing's own fit."""
_FAINT = 24.0
"""A part is searched for only in pixels to which it adds at least this many grey levels."""
_BLURS = (0.0, 0.45, 0.6, 0.75, 0.9)
"""Softness that the whole image may have: sigmas of Gaussian blurs, in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One flaw."""

    thing: int
    """Index into the caption's things; for a blob, the thing whose cell holds most of it."""
    part: str
    """Name of the unsupported part, "blob", or "thing" if the whole thing is wrong."""
    reason: str
    mask: Mask
    """Bool (96, 96)."""


@dataclass(frozen=True, kw_only=True)
class SeenThing:
    """A thing of the caption as it is in the image. Place and size are in pixels."""

    x: float
    y: float
    radius: float
    kind_ok: bool
    colour_ok: bool
    turned: bool = False
    """Whether it faces the other side, or has its sun there."""
    share: float
    """The share of the difference between its cell and the background that it explains, at most 1."""

    @property
    def right(self) -> bool:
        """Whether it is the thing of the caption; its parts are not considered."""
        return self.kind_ok and self.colour_ok and not self.turned


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What the referee found in an image."""

    flaws: tuple[Finding, ...]
    things: tuple[SeenThing, ...]

    @property
    def mask(self) -> Mask:
        """Union of the flaws' masks, bool (96, 96)."""
        return union((flaw.mask for flaw in self.flaws), Size(SIZE, SIZE))

    @property
    def count(self) -> int:
        """Number of flaws."""
        return len(self.flaws)

    @property
    def area(self) -> float:
        """Share of flawed pixels, in [0, 1]."""
        return float(self.mask.mean())


def inspect(image: Image.Image, caption: str | Scene) -> Verdict:
    """Find what in an image does not fit its caption.

    Args:
        image: RGB, 96 x 96.
        caption: a caption of the micro world, or a scene; the places and sizes of a scene are ignored.

    Raises:
        InputError: the image has another size, or the text is not a caption of the micro world.
    """
    if image.size != (SIZE, SIZE):
        raise InputError(
            f"Expected an image of {SIZE}x{SIZE} pixels, got {image.width}x{image.height}: resize it first."
        )
    scene = parse_caption(caption if isinstance(caption, str) else caption.caption)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return _Inspection(pixels - _tint(pixels, scene), scene).verdict()


def _tint(pixels: Floats, scene: Scene) -> Floats:
    """The shift of the background colour, float32 (3,), clipped to what a decoder may cause."""
    offset = pixels - np.array(scene.ground, dtype=np.float32)
    plain = np.abs(offset).max(axis=2) < 4 * _TINT
    return np.median(offset[plain], axis=0).clip(-_TINT, _TINT) if plain.any() else np.zeros(3, dtype=np.float32)


class _Inspection:
    """The inspection of one image."""

    def __init__(self, pixels: Floats, scene: Scene) -> None:
        self._pixels = pixels
        self._cells = cells(scene.rows)
        self._fitters = [Fitter(pixels, scene.ground, cell, len(scene.things)) for cell in self._cells]
        fits = [fitter.fit(thing) for fitter, thing in zip(self._fitters, scene.things, strict=True)]
        self._scene = replace(scene, things=tuple(fit.thing for fit in fits))
        self._drawn = drawn = self._render()
        self._seen = [self._identify(index, fit) for index, fit in enumerate(fits)]
        self._blur = min(_BLURS, key=lambda blur: float(_clipped(_soften(drawn, blur) - pixels).sum()))
        shifted = [self._render(dx, dy) for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
        drawings = [_soften(each, self._blur) for each in (drawn, *shifted)]
        radius = float(np.mean([fit.thing.radius for fit in fits]))
        self._residue = Residue(pixels, drawings, scene.ground, radius)

    def _render(self, across: int = 0, down: int = 0) -> Floats:
        """Render the fitted scene, shifted by (across, down) times the error of a fit."""
        offset = across * _JITTER, down * _JITTER
        shapes = [replace(shape, points=shape.points + offset) for shape in self._scene.shapes()]
        return np.asarray(rasterise(shapes, self._scene.ground, SIZE), dtype=np.float32)

    def _cell(self, index: int) -> tuple[slice, slice]:
        x0, y0, x1, y1 = (round(value) for value in self._cells[index])
        return slice(y0, y1), slice(x0, x1)

    def _identify(self, index: int, fit: Fit) -> SeenThing:
        """Decide whether the thing is in the image, with the right kind and colour."""
        cell = self._cell(index)
        seen, drawn = self._pixels[cell], self._drawn[cell]
        plain = _clipped(seen - self._scene.ground).sum()
        empty = _clipped(drawn - self._scene.ground).sum()
        share = 1 - float(_clipped(seen - drawn).sum() / max(plain, 1.0))
        found = plain > _PRESENT * empty
        rival = self._fitters[index].rival(fit.thing) if found and share < _SUSPICIOUS else fit
        best = rival.thing if rival.cost < _CLEARLY * fit.cost else fit.thing
        return SeenThing(
            x=fit.thing.x,
            y=fit.thing.y,
            radius=fit.thing.radius,
            kind_ok=bool(found) and best.kind == fit.thing.kind,
            colour_ok=bool(found) and best.colour == fit.thing.colour,
            turned=best.kind == fit.thing.kind and best.attribute != fit.thing.attribute,
            share=share,
        )

    def verdict(self) -> Verdict:
        """Collect the flaws: whole things that are wrong, else the parts and blobs of a thing."""
        flaws: list[Finding] = []
        things = []
        extras = self._extras()
        for index, seen in enumerate(self._seen):
            parts, lost = self._parts(index)
            if seen.right and lost > _RUINED:
                seen = replace(seen, kind_ok=False)
            things.append(seen)
            if seen.right:
                flaws += _merge(parts, [extra for extra in extras if extra.thing == index])
            else:
                flaws.append(self._whole(index, seen))
        return Verdict(flaws=tuple(flaws), things=tuple(things))

    def _whole(self, index: int, seen: SeenThing) -> Finding:
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[self._cell(index)] = True
        thing = self._scene.things[index]
        checks = (("kind", seen.kind_ok), ("colour", seen.colour_ok), ("side", not seen.turned))
        wrong = " and ".join(name for name, right in checks if not right)
        return Finding(thing=index, part="thing", reason=f"not {thing.phrase}: wrong {wrong}", mask=mask)

    def _parts(self, index: int) -> tuple[list[Finding], float]:
        """Find the unsupported parts, and the share of the thing that the invisible ones make up."""
        thing = self._scene.things[index]
        parts = thing.parts(self._scene.ground)
        window = square_of(thing)
        x0, y0, x1, y1 = window
        whole = _soften(draw(thing.shapes(index, parts), self._scene.ground, window), self._blur)
        misses = self._misses(whole, window)
        miss = misses.min(axis=0)
        found, lost, total = [], 0.0, 0.0
        for name in dict.fromkeys(part.name for part in parts):
            rest = [part for part in parts if part.name != name]
            without = _soften(draw(thing.shapes(index, rest), self._scene.ground, window), self._blur)
            adds = np.abs(whole - without).max(axis=2)
            adds[adds < _FAINT] = 0
            if (adds > 0).sum() < LEAST_PIXELS:
                continue
            total += float(adds.sum())
            around = ndimage.binary_dilation(adds > 0)
            unseen = np.minimum(miss, adds).sum() > _UNSUPPORTED * adds.sum()
            garbled = name in PLACES and (misses * around).sum(axis=(1, 2)).min() > _GARBLED * adds.sum()
            mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
            mask[y0:y1, x0:x1] = around
            mask &= self._residue.differs
            if (unseen or garbled) and mask.sum() >= LEAST_PIXELS:
                lost += float(adds.sum()) if unseen else 0.0
                reason = f"the {name} is not seen" if unseen else f"the {name} cannot be read"
                found.append(Finding(thing=index, part=name, reason=reason, mask=mask))
        return found, lost / max(total, 1.0)

    def _misses(self, drawn: Floats, window: Window) -> Floats:
        """Distance of the drawn pixels to the image for each of nine shifts, float32 (9, h, w), in grey levels."""
        x0, y0, x1, y1 = window
        padded = np.pad(self._pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
        shifted = [padded[y0 + dy : y1 + dy, x0 + dx : x1 + dx] for dy in range(3) for dx in range(3)]
        misses: Floats = np.abs(drawn - np.stack(shifted)).max(axis=3)
        return misses

    def _extras(self) -> list[Finding]:
        """Find the blobs and ragged edges, each with the thing whose cell holds most of it."""
        found = [(blob, "nothing in the caption explains it") for blob in self._residue.blobs()]
        ragged = self._residue.ragged()
        for index in range(len(self._cells)):
            mask = np.zeros_like(ragged)
            mask[self._cell(index)] = ragged[self._cell(index)]
            if mask.any():
                found.append((mask, "the edge is ragged"))
        return [Finding(thing=self._owner(mask), part="blob", reason=reason, mask=mask) for mask, reason in found]

    def _owner(self, blob: Mask) -> int:
        return int(np.argmax([blob[self._cell(index)].sum() for index in range(len(self._cells))]))


def _clipped(difference: Floats) -> Floats:
    distance: Floats = np.abs(difference).mean(axis=2)
    return np.minimum(distance, 60.0)


def _soften(pixels: Floats, blur: float) -> Floats:
    return ndimage.gaussian_filter(pixels, (blur, blur, 0), mode="nearest") if blur else pixels


def _merge(parts: Sequence[Finding], extras: Sequence[Finding]) -> list[Finding]:
    """Make one flaw of each lost part and the blobs that touch it, and one of each group of other blobs that touch.

    A part inside another lost part (a pupil in an eye) is not counted again. The two parts of a reflection count once.
    """
    groups: list[list[Finding]] = []
    for part in sorted(parts, key=lambda each: -int(each.mask.sum())):
        family = part.part.partition(" of ")[0]
        home = [
            group
            for group in groups
            if group[0].part.partition(" of ")[0] == family or 2 * (part.mask & group[0].mask).sum() > part.mask.sum()
        ]
        if home:
            home[0].append(part)
        else:
            groups.append([part])
    lost = len(groups)
    for extra in extras:
        near = ndimage.binary_dilation(extra.mask, iterations=2)
        contact = [max(int((near & each.mask).sum()) for each in group) for group in groups]
        if any(contact[:lost]):
            groups[int(np.argmax(contact[:lost]))].append(extra)
        else:
            joined = [group for group, touch in zip(groups, contact, strict=True) if touch]
            groups = [group for group, touch in zip(groups, contact, strict=True) if not touch]
            groups.append([extra, *(each for group in joined for each in group)])
    return [replace(group[0], mask=np.logical_or.reduce([each.mask for each in group])) for group in groups]
