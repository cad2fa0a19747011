"""The referee: what in a picture does not fit its caption, and where.

It sees the picture and the caption, nothing else: no detector, no loop, no seed. It fits place and size of every thing
(``fitting.py``), renders the scene so found, and compares in two ways, both forgiving about one pixel:

- every *part* (a finger, a pupil, a tick, a letter, a shadow) must be seen: where the picture looks as if the part
  were not there, the part is unsupported;
- every *pixel* must be explained: connected pixels of which no part of the scene is the cause are a blob.

Whatever touches is one flaw. A thing that is absent, or of another kind or colour, is one flaw that covers its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from refiner.errors import InputError
from refiner.masks import components
from refiner.micro.drawing import rasterise
from refiner.micro.fitting import Fit, Floats, draw, fitters, square_of
from refiner.micro.world import SIZE, Scene, cells, parse_caption
from refiner.types import Mask

DIFFERENT = 28.0
"""Grey levels in any channel by which a pixel of a flaw differs from what should be there."""
_TOLERANCE = 30.0
"""Grey levels that a pixel may lie outside of what its neighbourhood should hold."""
_TINT = 8.0
"""Grey levels by which a decoder may shift a colour of the whole picture."""
_JITTER = 0.125
"""Pixels by which a fit may be off; thin lines look different at such a distance."""
_RINGING = 0.3
"""Share of the local contrast that a decoder may add beside an edge."""
_SOFT = 0.55
"""Share of the local contrast that a decoder may lose."""
_LOST = 0.55
"""A pixel contradicts its part when it misses this share of what the part adds to the picture."""
_UNSUPPORTED = 0.4
"""Share of a part's pixels that must contradict it."""
_BLOB = 5
"""Least number of unexplained pixels that count."""
_BARE = 40.0
"""Grey levels within which a pixel shows the background."""
_TEETH = 3
"""Least number of pixels too much, and of pixels too little, that make an edge ragged."""
_SUSPICIOUS = 0.75
"""Things explained worse than this are compared with other kinds and colours."""
_BLURS = (0.0, 0.45, 0.6, 0.75, 0.9)
"""Softness that the whole picture may have, as Gaussian sigmas in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One flaw."""

    thing: int
    """Index into the caption's things; for a blob between things, the thing whose cell it is in."""
    part: str
    """Name of the unsupported part, "blob", or "thing" where the whole of it is wrong."""
    reason: str
    mask: Mask
    """Bool (96, 96)."""


@dataclass(frozen=True, kw_only=True)
class SeenThing:
    """A captioned thing as the picture shows it. Place and size are in pixels."""

    x: float
    y: float
    radius: float
    kind_ok: bool
    colour_ok: bool
    share: float
    """How much of what stands out in its cell it explains, at most 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What the referee says of a picture."""

    flaws: tuple[Finding, ...]
    things: tuple[SeenThing, ...]

    @property
    def mask(self) -> Mask:
        """Union of the flaws, bool (96, 96)."""
        union = np.zeros((SIZE, SIZE), dtype=np.bool_)
        for flaw in self.flaws:
            union |= flaw.mask
        return union

    @property
    def count(self) -> int:
        """Number of flaws."""
        return len(self.flaws)

    @property
    def area(self) -> float:
        """Share of flawed pixels, in [0, 1]."""
        return float(self.mask.mean())


def inspect(image: Image.Image, caption: str | Scene) -> Verdict:
    """Find what in a picture does not fit its caption.

    Args:
        image: RGB, 96 x 96.
        caption: a caption of the micro world, or a scene, of which places and sizes are ignored.

    Raises:
        InputError: the picture has another size, or the text is no caption of the micro world.
    """
    if image.size != (SIZE, SIZE):
        raise InputError(
            f"expected a picture of {SIZE}x{SIZE} pixels, got {image.width}x{image.height}; resize it first"
        )
    scene = parse_caption(caption if isinstance(caption, str) else caption.caption)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return _Inspection(pixels - _tint(pixels, scene), scene).verdict()


def _tint(pixels: Floats, scene: Scene) -> Floats:
    """How far the background's colour is off, float32 (3,), as far as a decoder may be."""
    offset = pixels - np.array(scene.ground, dtype=np.float32)
    plain = np.abs(offset).max(axis=2) < 4 * _TINT
    return np.median(offset[plain], axis=0).clip(-_TINT, _TINT) if plain.any() else np.zeros(3, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    thing: int
    part: str
    reason: str
    mask: Mask


class _Inspection:
    """One picture under inspection."""

    def __init__(self, pixels: Floats, scene: Scene) -> None:
        self._pixels = pixels
        self._cells = cells(scene.rows)
        self._wanted = scene.things
        self._fitters = fitters(pixels, scene)
        fits = [fitter.fit(thing) for fitter, thing in zip(self._fitters, scene.things, strict=True)]
        self._scene = replace(scene, things=tuple(fit.thing for fit in fits))
        self._low, self._high = _interval(pixels)
        self._seen: list[SeenThing] = []
        self._drawn = self._render()
        for index in range(len(fits)):
            self._identify(index, fits[index])
        drawn = self._render()
        self._blur = min(_BLURS, key=lambda blur: float(_clipped(_soften(drawn, blur) - pixels).sum()))
        self._drawn = _soften(drawn, self._blur)
        shifted = [self._render(dx, dy) for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
        drawings = [_soften(each, self._blur) for each in (drawn, *shifted)]
        self._least, self._most = np.min(drawings, axis=0), np.max(drawings, axis=0)
        self._differs = np.maximum(self._least - pixels, pixels - self._most).max(axis=2) > DIFFERENT

    def _render(self, across: int = 0, down: int = 0) -> Floats:
        """The fitted scene, off by so many times the accuracy of a fit."""
        offset = across * _JITTER, down * _JITTER
        shapes = [replace(shape, points=shape.points + offset) for shape in self._scene.shapes()]
        return np.asarray(rasterise(shapes, self._scene.ground, SIZE), dtype=np.float32)

    def _cell(self, index: int) -> tuple[slice, slice]:
        x0, y0, x1, y1 = (round(value) for value in self._cells[index])
        return slice(y0, y1), slice(x0, x1)

    def _identify(self, index: int, fit: Fit) -> None:
        """Decide whether the thing is there, of the right kind and colour."""
        cell = self._cell(index)
        seen = self._pixels[cell]
        drawn = self._drawn[cell]
        plain = _clipped(seen - self._scene.ground).sum()
        miss = _clipped(seen - drawn).sum()
        empty = _clipped(drawn - self._scene.ground).sum()
        share = 1 - float(miss / max(plain, 1.0))
        kind_ok = colour_ok = True
        if plain < 0.35 * empty:
            kind_ok = colour_ok = False
        elif share < _SUSPICIOUS:
            rival = self._fitters[index].rival(fit.thing)
            if rival.cost < 0.85 * fit.cost:
                kind_ok = rival.thing.kind == fit.thing.kind
                colour_ok = rival.thing.colour == fit.thing.colour
        self._seen.append(
            SeenThing(
                x=fit.thing.x,
                y=fit.thing.y,
                radius=fit.thing.radius,
                kind_ok=kind_ok,
                colour_ok=colour_ok,
                share=share,
            )
        )

    def verdict(self) -> Verdict:
        whole = [self._whole(i) for i, seen in enumerate(self._seen) if not (seen.kind_ok and seen.colour_ok)]
        lost = {finding.thing for finding in whole}
        parts = [each for i in range(len(self._seen)) if i not in lost for each in self._parts(i)]
        blobs = [each for each in (*self._blobs(), *self._ragged()) if each.thing not in lost]
        return Verdict(flaws=(*whole, *_merge([*parts, *blobs])), things=tuple(self._seen))

    def _whole(self, index: int) -> Finding:
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[self._cell(index)] = True
        wanted, seen = self._wanted[index], self._seen[index]
        wrong = " and ".join(name for name, right in (("kind", seen.kind_ok), ("colour", seen.colour_ok)) if not right)
        return Finding(thing=index, part="thing", reason=f"no {wanted.colour} {wanted.kind}: wrong {wrong}", mask=mask)

    def _parts(self, index: int) -> list[_Candidate]:
        """Parts that the picture does not support."""
        thing = self._scene.things[index]
        parts = thing.parts(self._scene.ground)
        window = square_of(thing)
        x0, y0, x1, y1 = window
        whole = _soften(draw(thing.shapes(index, parts), self._scene.ground, window), self._blur)
        miss = self._miss(whole, window)
        found = []
        for name in dict.fromkeys(part.name for part in parts):
            rest = [part for part in parts if part.name != name]
            without = _soften(draw(thing.shapes(index, rest), self._scene.ground, window), self._blur)
            adds = np.abs(whole - without).max(axis=2)
            own = adds > 24
            if own.sum() < _BLOB:
                continue
            contradicts = own & (miss > np.maximum(_LOST * adds, 20))
            share = float((adds * contradicts).sum() / (adds * own).sum())
            if share > _UNSUPPORTED:
                mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
                mask[y0:y1, x0:x1] = ndimage.binary_dilation(own)
                mask &= self._differs
                if mask.sum() >= _BLOB:
                    found.append(_Candidate(thing=index, part=name, reason=f"the {name} is not seen", mask=mask))
        return found

    def _miss(self, drawn: Floats, window: tuple[int, int, int, int]) -> Floats:
        """Distance of each drawn pixel to the nearest of the picture's within one pixel, in grey levels."""
        x0, y0, x1, y1 = window
        padded = np.pad(self._pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
        shifted = [
            np.abs(drawn - padded[y0 + dy : y1 + dy, x0 + dx : x1 + dx]).max(axis=2)
            for dy in range(3)
            for dx in range(3)
        ]
        return np.min(shifted, axis=0)

    def _blobs(self) -> list[_Candidate]:
        """Connected pixels that no part explains."""
        low, high = _interval(self._least)[0], _interval(self._most)[1]
        contrast = (high - low).max(axis=2)
        foreign = np.maximum(self._pixels - high, low - self._pixels).max(axis=2)
        absent = np.maximum(self._least - self._high, self._low - self._most).max(axis=2)
        seeds = foreign > np.maximum(_TOLERANCE, _RINGING * contrast)
        seeds |= absent > np.maximum(_TOLERANCE, _SOFT * contrast)
        near = ndimage.binary_dilation(seeds, iterations=2)
        grown = seeds | (near & self._differs)
        found = []
        for blob in components(_closed(grown)):
            if (blob & seeds).sum() >= _BLOB:
                found.append(
                    _Candidate(
                        thing=self._owner(blob), part="blob", reason="nothing in the caption explains it", mask=blob
                    )
                )
        return found

    def _ragged(self) -> list[_Candidate]:
        """Edges with teeth: pixels beside a silhouette where too much and too little take turns."""
        wanted = np.abs(self._drawn - self._scene.ground).max(axis=2)
        seen = np.abs(self._pixels - self._scene.ground).max(axis=2)
        excess = self._differs & (wanted < _BARE) & (seen > wanted + _BARE)
        lack = self._differs & (seen < _BARE) & (wanted > seen + _BARE)
        turns = ndimage.binary_dilation(excess, _DISC) & ndimage.binary_dilation(lack, _DISC)
        teeth = np.zeros_like(turns)
        for stretch in components(turns):
            here = ndimage.binary_dilation(stretch, iterations=2)
            if min((excess & here).sum(), (lack & here).sum()) >= _TEETH:
                teeth |= here & self._differs
        found = []
        for index in range(len(self._cells)):
            mask = np.zeros_like(teeth)
            mask[self._cell(index)] = teeth[self._cell(index)]
            if mask.any():
                mask = _closed(mask)
                found.append(_Candidate(thing=index, part="edge", reason="the edge is ragged", mask=mask))
        return found

    def _owner(self, blob: Mask) -> int:
        return int(np.argmax([blob[self._cell(index)].sum() for index in range(len(self._cells))]))


_DISC = np.hypot(*np.indices((5, 5)) - 2) <= 2.3


def _closed(mask: Mask) -> Mask:
    """The mask without gaps of up to four pixels."""
    return mask | ndimage.binary_closing(np.pad(mask, 4), structure=_DISC)[4:-4, 4:-4]


def _interval(pixels: Floats) -> tuple[Floats, Floats]:
    """Least and largest value of each channel within one pixel."""
    size = (3, 3, 1)
    return ndimage.minimum_filter(pixels, size, mode="nearest"), ndimage.maximum_filter(pixels, size, mode="nearest")


def _clipped(difference: Floats) -> Floats:
    return np.minimum(np.abs(difference).mean(axis=2), 60.0)


def _soften(pixels: Floats, blur: float) -> Floats:
    return ndimage.gaussian_filter(pixels, (blur, blur, 0), mode="nearest") if blur else pixels


def _merge(candidates: Sequence[_Candidate]) -> list[Finding]:
    """Join what touches: one flaw for each connected group, named after its largest part."""
    groups: list[list[_Candidate]] = []
    for each in candidates:
        near = ndimage.binary_dilation(each.mask, iterations=2)
        touching = [group for group in groups if any((near & other.mask).any() for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([each, *(other for group in touching for other in group)])
    findings = []
    for group in groups:
        first = max(group, key=lambda each: (each.part != "blob", int(each.mask.sum())))
        mask = np.logical_or.reduce([each.mask for each in group])
        findings.append(Finding(thing=first.thing, part=first.part, reason=first.reason, mask=mask))
    return findings
