"""Find what the parts of a scene do not explain: connected pixels that differ from its render.

Small differences are tolerated: softness, and parts that are a little out of place. The tolerated distance grows with
the things: a part may end, or be, about 0.19 of the thing's radius away from its place. A hand with a slightly longer
middle finger has no flaw.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from refiner.masks import components
from refiner.micro.drawing import Colour
from refiner.micro.fitting import Floats
from refiner.types import Mask

DIFFERENT = 28.0
"""Least difference, in grey levels of any channel, between a flawed pixel and what should be there."""
LEAST_PIXELS = 5
"""Smallest number of unexplained pixels that counts as a flaw."""
_TOLERANCE = 36.0
"""Grey levels by which a pixel may be outside the range of the values that the render has near it."""
_RINGING = 0.3
"""Share of the local contrast that a decoder may add next to an edge."""
_SOFT = 0.55
"""Share of the local contrast that a decoder may lose."""
_BARE = 40.0
"""Largest difference, in grey levels, between a background pixel and the background colour."""
_TEETH = 3
"""An edge is ragged if it has at least this many excess pixels and this many lacking pixels."""
_OFF = 0.068
"""Tolerated displacement of a thing's edges, as a share of its radius."""
_MISPLACED = 0.12
"""Tolerated displacement of a part, as a share of its thing's radius."""
_SMALL = 20.0
"""Radius of the smallest things, in pixels; on larger things, the smallest blob that counts grows with their area."""
_DISC = np.hypot(*np.indices((5, 5)) - 2) <= 2.3


class Residue:
    """Compares an image with the renders of its scene, pixel by pixel."""

    def __init__(self, pixels: Floats, drawings: list[Floats], ground: Colour, radius: float) -> None:
        """Compare ``pixels`` with ``drawings``, renders of one scene.

        Args:
            pixels: the image, float32 (H, W, 3) in [0, 255].
            drawings: the render as it was fitted, then renders that are shifted by the accuracy of the fit; each as
                ``pixels``.
            ground: the background colour.
            radius: mean radius of the scene's things, in pixels; the tolerated distances grow with it.
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
        """Find connected pixels that no part explains, not even a part that is a little out of place."""
        seeds = self._unexplained((0, 0))
        near = ndimage.binary_dilation(seeds, iterations=2)
        blobs = components(_closed(seeds | (near & self.differs)))
        blobs = [blob for blob in blobs if (blob & seeds).sum() >= self._fewest]
        nudged = [self._unexplained(nudge) for nudge in _nudges(self._nudge)] if blobs else []
        return [blob for blob in blobs if not _misplaced(blob, seeds, nudged)]

    def _unexplained(self, nudge: tuple[int, int]) -> Mask:
        """Pixels that are foreign to the scene, or missing, after it is moved by ``nudge`` = (down, across) pixels."""
        least, most, low, high = (np.roll(each, nudge, axis=(0, 1)) for each in self._wanted)
        contrast = (high - low).max(axis=2)
        foreign = np.maximum(self._pixels - high, low - self._pixels).max(axis=2)
        absent = np.maximum(least - self._high, self._low - most).max(axis=2)
        unexplained: Mask = (foreign > np.maximum(_TOLERANCE, _RINGING * contrast)) | (
            absent > np.maximum(_TOLERANCE, _SOFT * contrast)
        )
        return unexplained

    def ragged(self) -> Mask:
        """Find ragged edges: pixels next to a silhouette where excess and lacking pixels alternate."""
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
    """Moves (down, across) of 1 to ``most`` pixels along the axes and diagonals."""
    ways = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return [(far * dy, far * dx) for far in range(1, most + 1) for dy, dx in ways]


def _misplaced(blob: Mask, seeds: Mask, nudged: list[Mask]) -> bool:
    """Whether one of the moves of the scene explains nearly all pixels around a blob."""
    around = ndimage.binary_dilation(blob, iterations=3)
    most = max(LEAST_PIXELS - 1, 0.15 * (blob & seeds).sum())
    return any((each & around).sum() <= most for each in nudged)


def _closed(mask: Mask) -> Mask:
    """Close gaps of up to four pixels in a mask."""
    closed: Mask = ndimage.binary_closing(np.pad(mask, 4), structure=_DISC)[4:-4, 4:-4]
    return mask | closed


def _interval(pixels: Floats, reach: int) -> tuple[Floats, Floats]:
    """Smallest and largest value of each channel within ``reach`` pixels."""
    size = (2 * reach + 1, 2 * reach + 1, 1)
    return ndimage.minimum_filter(pixels, size, mode="nearest"), ndimage.maximum_filter(pixels, size, mode="nearest")
