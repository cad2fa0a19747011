"""Masks from images: what people and tools export is read for what it is, or refused with the reason.

A mask marks flawed pixels. It may be an image of two values (0 and 1, or dark and bright, at any depth), of one colour
on black, also with a palette, or of one colour whose shape is its alpha channel.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import InputError
from refiner.types import Mask

_NEAR: Final = 16
"""Differences of channels or pixels up to this, of 255, are compression, not colour."""
_WHITES: Final = (1.0, 255.0, 65535.0, 2.0**31 - 1)
"""Largest values of images by their depth."""


def mask_of(image: Image.Image, name: str, *, indices: bool = False) -> Mask:
    """Read a mask from an image of any mode; bool (H, W) of its size, True = marked.

    Args:
        image: the mask, not turned or scaled.
        name: of the mask, for messages.
        indices: the numbers of the colours count, not the colours themselves, if it has a palette.

    Returns:
        True for 1 if no value is above 1, else above half of white; for the one colour that is not black; or above half
        of opaque if all that is visible has one colour.

    Raises:
        InputError: it has values that are all dark, several colours, both colours and a shape in alpha, or negative or
            infinite values.
    """
    if image.mode == "1":
        return np.array(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep(np.asarray(image), name)
    if image.mode == "P" and indices:
        return _bright(np.asarray(image), name)
    if image.has_transparency_data:
        return _transparent(np.asarray(image.convert("RGBA")), name, labels=image.mode in ("P", "PA"))
    if image.mode == "L":
        return _bright(np.asarray(image), name)
    return _coloured(np.asarray(image.convert("RGB")), name, labels=image.mode == "P")


def _bright(values: NDArray[np.uint8], name: str) -> Mask:
    """The bright pixels of 8-bit grey, or those of value 1 if no value is above 1."""
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    highest = present[-1] if present else 0
    if 1 < highest <= 127:
        raise _refused(name, f"values up to {highest}")
    if 1 in present and 255 in present and set(present) <= {0, 1, 255}:
        raise _refused(name, "both 1 and 255, of which one may mean that nothing is known there")
    return np.asarray(values > (0 if highest <= 1 else 127))


def _deep(values: NDArray[Any], name: str) -> Mask:
    """The same for 16 and 32 bits and floats."""
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise _refused(name, "values that are negative or not finite")
    highest = float(values.max(initial=0))
    if values.dtype.kind != "f" and highest <= 255:
        return _bright(values.astype(np.uint8), name)
    white = next((white for white in _WHITES if highest <= white), highest)
    if 0 < highest <= white / 2:
        raise _refused(name, f"values up to {highest:g}")
    return np.asarray(values > white / 2)


def _coloured(pixels: NDArray[np.uint8], name: str, *, labels: bool) -> Mask:
    """The pixels that are not black, if they have one colour; the bright ones of greys that are no labels."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    packed = red << 16 | green << 8 | blue
    others = packed[packed > 0]
    single = bool((others == others[:1]).all())
    if np.ptp(pixels, axis=2).max(initial=0) <= _NEAR and not (labels and single):
        return _bright(np.asarray(Image.fromarray(pixels).convert("L")), name)
    if not single:
        raise _refused(name, "several colours")
    return np.asarray(packed > 0)


def _transparent(pixels: NDArray[np.uint8], name: str, *, labels: bool) -> Mask:
    """The opaque pixels if all that is visible has one colour; without a shape in alpha, what the colours say."""
    colours, alpha = pixels[..., :3], pixels[..., 3]
    low, high = int(alpha.min(initial=255)), int(alpha.max(initial=0))
    if low == high > 0:
        return _coloured(np.ascontiguousarray(colours), name, labels=labels)
    visible = colours[alpha > 0] if high else colours.reshape(-1, 3)
    if np.ptp(visible, axis=0).max(initial=0) > _NEAR:
        raise _refused(name, "both colours and transparency")
    return _bright(alpha, name)


def _refused(name: str, what: str) -> InputError:
    return InputError(
        f"Expected a mask of the values 0 and 1, or 0 and 255, got {what} in {name}: export it as one of these."
    )
