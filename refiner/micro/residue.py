"""What no part of a scene explains: connected pixels that differ from its render by more than softness and a nudge.

Both are in proportion to the things, by which a part may end, or stand, some 0.19 of the radius beside its place:
nobody calls a hand flawed whose middle finger is a little longer than another's.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from refiner.masks import components
from refiner.micro.drawing import Colour
from refiner.micro.fitting import Floats
from refiner.types import Mask

DIFFERENT = 28.0
"""Grey levels in any channel by which a pixel of a flaw differs from what should be there."""
LEAST_PIXELS = 5
"""Least number of unexplained pixels that count."""
_TOLERANCE = 36.0
"""Grey levels that a pixel may lie outside of what its neighbourhood should hold."""
_RINGING = 0.3
"""Share of the local contrast that a decoder may add beside an edge."""
_SOFT = 0.55
"""Share of the local contrast that a decoder may lose."""
_BARE = 40.0
"""Grey levels within which a pixel shows the background."""
_TEETH = 3
"""Least number of pixels too much, and of pixels too little, that make an edge ragged."""
_OFF = 0.068
"""Share of a thing's radius by which its edges may be off."""
_MISPLACED = 0.12
"""Share of a thing's radius by which a part may stand beside its place."""
_SMALL = 20.0
"""Radius in pixels of the smallest things; blobs on larger ones count from a size in proportion."""
_DISC = np.hypot(*np.indices((5, 5)) - 2) <= 2.3


class Residue:
    """A picture compared with the renders of its scene, pixel by pixel."""

    def __init__(self, pixels: Floats, drawings: list[Floats], ground: Colour, radius: float) -> None:
        """``drawings`` are renders of one scene, the first as it was fitted, the others within the fit's accuracy.

        All arrays are float32 (H, W, 3) in [0, 255]. ``radius`` is that of the scene's things, in pixels: what large
        things may be off by is in proportion.
        """
        self._pixels, self._drawn, self._ground = pixels, drawings[0], ground
        self._reach, self._nudge = max(1, round(_OFF * radius)), max(1, round(_MISPLACED * radius))
        self._fewest = max(LEAST_PIXELS, round(LEAST_PIXELS * (radius / _SMALL) ** 2))
        self._low, self._high = _interval(pixels, self._reach)
        self._least, self._most = np.min(drawings, axis=0), np.max(drawings, axis=0)
        low, high = _interval(self._least, self._reach)[0], _interval(self._most, self._reach)[1]
        self._wanted = self._least, self._most, low, high
        self.differs: Mask = np.maximum(self._least - pixels, pixels - self._most).max(axis=2) > DIFFERENT
        """Pixels that differ from every render."""

    def blobs(self) -> list[Mask]:
        """Connected pixels that no part explains, not even one that stands a little beside its place."""
        seeds = self._unexplained((0, 0))
        near = ndimage.binary_dilation(seeds, iterations=2)
        blobs = components(_closed(seeds | (near & self.differs)))
        blobs = [blob for blob in blobs if (blob & seeds).sum() >= self._fewest]
        nudged = [self._unexplained(nudge) for nudge in _nudges(self._nudge)] if blobs else []
        return [blob for blob in blobs if not _misplaced(blob, seeds, nudged)]

    def _unexplained(self, nudge: tuple[int, int]) -> Mask:
        """Pixels foreign to the scene, or of the scene and absent, once it is moved by (down, across) pixels."""
        least, most, low, high = (np.roll(each, nudge, axis=(0, 1)) for each in self._wanted)
        contrast = (high - low).max(axis=2)
        foreign = np.maximum(self._pixels - high, low - self._pixels).max(axis=2)
        absent = np.maximum(least - self._high, self._low - most).max(axis=2)
        unexplained: Mask = (foreign > np.maximum(_TOLERANCE, _RINGING * contrast)) | (
            absent > np.maximum(_TOLERANCE, _SOFT * contrast)
        )
        return unexplained

    def ragged(self) -> Mask:
        """Edges with teeth: pixels beside a silhouette where too much and too little take turns."""
        wanted = np.abs(self._drawn - self._ground).max(axis=2)
        seen = np.abs(self._pixels - self._ground).max(axis=2)
        excess = self.differs & (wanted < _BARE) & (seen > wanted + _BARE)
        lack = self.differs & (seen < _BARE) & (wanted > seen + _BARE)
        turns = ndimage.binary_dilation(excess, _DISC) & ndimage.binary_dilation(lack, _DISC)
        teeth = np.zeros_like(turns)
        for stretch in components(turns):
            here = ndimage.binary_dilation(stretch, iterations=2)
            if min((excess & here).sum(), (lack & here).sum()) >= _TEETH:
                teeth |= here & self.differs
        return _closed(teeth)


def _nudges(most: int) -> list[tuple[int, int]]:
    """Ways (down, across) to move by 1 to ``most`` pixels along the axes and diagonals."""
    ways = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return [(far * dy, far * dx) for far in range(1, most + 1) for dy, dx in ways]


def _misplaced(blob: Mask, seeds: Mask, nudged: list[Mask]) -> bool:
    """Whether one nudge of the scene leaves next to nothing unexplained around a blob."""
    around = ndimage.binary_dilation(blob, iterations=3)
    most = max(LEAST_PIXELS - 1, 0.15 * (blob & seeds).sum())
    return any((each & around).sum() <= most for each in nudged)


def _closed(mask: Mask) -> Mask:
    """The mask without gaps of up to four pixels."""
    closed: Mask = ndimage.binary_closing(np.pad(mask, 4), structure=_DISC)[4:-4, 4:-4]
    return mask | closed


def _interval(pixels: Floats, reach: int) -> tuple[Floats, Floats]:
    """Least and largest value of each channel within so many pixels."""
    size = (2 * reach + 1, 2 * reach + 1, 1)
    return ndimage.minimum_filter(pixels, size, mode="nearest"), ndimage.maximum_filter(pixels, size, mode="nearest")
