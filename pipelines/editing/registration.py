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

from refiner.errors import BadImageError
from refiner.types import Mask

Pixels = NDArray[np.float32]
_REACH = 1 / 16
"""Largest shift that is looked for, as a share of the shorter side."""
_GAIN = 0.9
"""An answer is moved only if its difference outside the mask falls at least to this share."""


_OTHER = 0.5
"""An answer shows something else if its mean square difference outside the mask is above this share of what two
unrelated images would have,"""
_SLIGHT = 0.1**2
"""and above this mean square difference, which even the answer for a plain crop may have."""
_LEAST_OUTSIDE = 1 / 16
"""Share of the crop that must lie outside the mask to compare it there."""


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
        Float (H, W, 3) in [0, 1]. An answer that is not an image, is black, or holds NaN, is returned as it is.

    Raises:
        BadImageError: the answer shows something else than the image outside the mask.
    """
    if not isinstance(answer, np.ndarray) or answer.ndim != 3 or answer.shape[2] != 3:
        return answer
    if not np.isfinite(answer).all() or not answer.any():
        return answer
    sized = stretched(answer, image.size)
    old = np.asarray(image, dtype=np.float32) / np.float32(255)
    outside = ~mask
    if outside.mean() < _LEAST_OUTSIDE:
        return sized
    shift = shift_of(sized, old, outside)
    placed = sized if shift == (0, 0) else moved(sized, shift)
    unrelated = placed[outside].var(axis=0).mean() + old[outside].var(axis=0).mean()
    if _difference(placed, old, outside) > max(_SLIGHT, _OTHER * unrelated):
        raise BadImageError(
            "The edit model returned another image than the region that it was to edit: use another edit model, or a "
            "larger crop_padding."
        )
    return placed


def stretched(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize float (H, W, 3) in [0, 1] to a width and height; pixels of that size are returned unchanged."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    channels = [Image.fromarray(channel).resize(size) for channel in np.moveaxis(pixels.astype(np.float32), 2, 0)]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 1)


def shift_of(new: Pixels, old: Pixels, outside: Mask) -> Shift:
    """Estimate by how much ``new`` is shifted against ``old``, in whole pixels; (0, 0) unless moving it back helps.

    Of the shifts up to a sixteenth of the shorter side, it is that with the smallest mean square difference of grey
    values, over the pixels that are outside the mask before and after the shift (Padfield, 2012). It counts only if the
    difference falls clearly.

    Args:
        new, old: float (H, W, 3) in [0, 1].
        outside: bool (H, W); True = compared, and not all False.
    """
    reach = max(1, round(min(outside.shape) * _REACH))
    padded = tuple(side + reach for side in outside.shape)
    weight = outside.astype(np.float64)

    def spectrum(values: NDArray[np.float64]) -> NDArray[np.complex128]:
        return np.fft.rfft2(weight * values, s=padded)

    first, second = (
        grey - grey[outside].mean() for grey in (each.mean(axis=2, dtype=np.float64) for each in (new, old))
    )
    counted, one = spectrum(np.ones_like(weight)).conj(), spectrum(np.ones_like(weight))
    squares = spectrum(first**2) * counted + one * spectrum(second**2).conj()
    squares -= 2 * spectrum(first) * spectrum(second).conj()
    totals, counts = (_near(np.fft.irfft2(each, s=padded), reach) for each in (squares, one * counted))
    differences = np.where(counts > 0.5, totals / np.maximum(counts, 1), np.inf)
    down, right = (int(place) - reach for place in np.unravel_index(int(differences.argmin()), differences.shape))
    clear = differences[down + reach, right + reach] < _GAIN * differences[reach, reach]
    return Shift(down, right) if clear else Shift(0, 0)


def _near(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Cut out the values for shifts from ``-reach`` to ``reach``, down and right."""
    return np.roll(values, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def moved(pixels: Pixels, shift: Shift) -> Pixels:
    """Undo a shift; the pixels that come in at an edge repeat the pixels of the edge."""
    height, width = pixels.shape[:2]
    rows = (np.arange(height) + shift.down).clip(0, height - 1)
    columns = (np.arange(width) + shift.right).clip(0, width - 1)
    return pixels[rows][:, columns]


def _difference(new: Pixels, old: Pixels, outside: Mask) -> float:
    """Mean square difference outside the mask, after the difference of the mean colours is removed."""
    difference = new[outside].astype(np.float64) - old[outside]
    return float(difference.var(axis=0).mean())
