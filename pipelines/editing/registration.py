"""Fit the answer of an edit model to the crop that it was asked to change.

Edit models return the whole crop, often at another size and moved by a few pixels. The part outside the mask shows the
same as before, so that it tells how the answer must be moved. Differences of colour are removed when the crop is pasted
(``refiner.pipelines.painting.crops.colour_match``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.types import Mask

Pixels = NDArray[np.float32]
_REACH = 1 / 16
"""Largest shift that is looked for, as a share of the shorter side."""
_GAIN = 0.9
"""An answer is moved only if its difference outside the mask falls at least to this share."""


class Shift(NamedTuple):
    """Pixels by which an answer lies too far down and too far to the right."""

    down: int
    right: int


def registered(answer: Pixels, image: Image.Image, mask: Mask) -> Pixels:
    """Bring an answer to the size and the position of the image that was edited.

    An answer of the right size and in the right position is returned unchanged.

    Args:
        answer: float (h, w, 3) in [0, 1], of any size.
        image: the image that was edited, RGB, of height H and width W.
        mask: bool (H, W); True = may differ from the image.

    Returns:
        Float (H, W, 3) in [0, 1]. An answer that is not an image, or holds NaN, is returned as it is.
    """
    if not isinstance(answer, np.ndarray) or answer.ndim != 3 or answer.shape[2] != 3 or not np.isfinite(answer).all():
        return answer
    sized = stretched(answer, image.size)
    old = np.asarray(image, dtype=np.float32) / np.float32(255)
    shift = shift_of(sized, old, mask)
    return sized if shift == (0, 0) else moved(sized, shift)


def stretched(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize float (H, W, 3) in [0, 1] to a width and height; pixels of that size are returned unchanged."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    channels = [Image.fromarray(channel).resize(size) for channel in np.moveaxis(pixels.astype(np.float32), 2, 0)]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 1)


def shift_of(new: Pixels, old: Pixels, mask: Mask) -> Shift:
    """Estimate by how much ``new`` is shifted against ``old``, in whole pixels; (0, 0) unless moving it back helps.

    The candidate is the peak of the phase correlation (Kuglin and Hines, 1975) of what is outside the mask, within a
    sixteenth of the shorter side. It counts only if the mean square difference outside the mask falls clearly.

    Args:
        new, old: float (H, W, 3) in [0, 1].
        mask: bool (H, W); True = not compared.
    """
    outside = ~mask
    if outside.sum() < mask.size / 16:
        return Shift(0, 0)
    first, second = (_prepared(pixels, outside) for pixels in (new, old))
    spectrum = np.fft.rfft2(first) * np.fft.rfft2(second).conj()
    peaks = np.fft.irfft2(spectrum / np.maximum(np.abs(spectrum), 1e-12), s=first.shape)
    reach = max(1, round(min(mask.shape) * _REACH))
    near = np.roll(peaks, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    down, right = (int(place) - reach for place in np.unravel_index(int(near.argmax()), near.shape))
    best = Shift(down, right)
    if best == (0, 0):
        return best
    still, shifted = _difference(new, old, outside), _difference(moved(new, best), old, outside)
    return best if shifted < _GAIN * still else Shift(0, 0)


def moved(pixels: Pixels, shift: Shift) -> Pixels:
    """Undo a shift; the pixels that come in at an edge repeat the pixels of the edge."""
    height, width = pixels.shape[:2]
    rows = (np.arange(height) + shift.down).clip(0, height - 1)
    columns = (np.arange(width) + shift.right).clip(0, width - 1)
    return pixels[rows][:, columns]


def _prepared(pixels: Pixels, outside: Mask) -> NDArray[np.float64]:
    """Grey values around their mean outside the mask, 0 inside it and falling to 0 at the edges of the image."""
    grey = pixels.mean(axis=2, dtype=np.float64)
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in grey.shape))
    return (grey - grey[outside].mean()) * outside * window


def _difference(new: Pixels, old: Pixels, outside: Mask) -> float:
    """Mean square difference outside the mask, after the difference of the mean colours is removed."""
    difference = new[outside].astype(np.float64) - old[outside]
    return float(difference.var(axis=0).mean())
