"""Prepare images for chat models."""

from __future__ import annotations

import base64
import hashlib
import math
import threading

from cachetools import LRUCache
from PIL import Image

from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import InputError
from refiner.images import png_bytes

MAX_SIDE = 1536
"""Default longest side, in pixels, of the images shown to a model."""
PATCH = 28
"""For models that give boxes in pixels (Qwen2.5-VL), the sides of images are multiples of this, at least two."""
KEPT_BYTES = 256_000_000
"""Bytes of encoded images that are kept in memory for further requests."""


def fit_picture(image: Image.Image, max_side: int) -> Image.Image:
    """Convert an image to RGB, and scale it down if its longest side is above ``max_side`` pixels.

    Raises:
        InputError: the pixels cannot be read.
    """
    try:
        scale = max_side / max(image.size)
        rgb = image.convert("RGB")
        if scale >= 1:
            return rgb
        width, height = (max(1, round(side * scale)) for side in image.size)
        return rgb.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    except (OSError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"The pixels of an image cannot be read ({error}): check the image file.") from error


def shown_picture(
    image: Image.Image, max_side: int, form: BoxFormat, limits: tuple[int, int] | None = None
) -> Image.Image:
    """Scale an image for a model. If boxes are in pixels, use a size that the model does not change again.

    ``limits`` are the least and greatest number of pixels of an image that the model does not scale, if they are known.
    """
    picture = fit_picture(image, max_side)
    if form.scale != "pixels":
        return picture
    most = max(2, max_side // PATCH)
    width, height = (PATCH * min(most, max(2, round(side / PATCH))) for side in picture.size)
    if limits is not None:
        width, height = _within(width, height, *limits)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _within(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """Change sides, multiples of ``PATCH``, so that their area lies within limits in pixels."""
    area = width * height
    growth = math.sqrt(min(max(area, least), most) / area)
    if growth == 1:
        return width, height
    whole = math.floor if growth < 1 else math.ceil
    return PATCH * max(1, whole(width * growth / PATCH)), PATCH * max(1, whole(height * growth / PATCH))


class Pictures:
    """Images as data URLs; each image is encoded once and identified by its pixels."""

    def __init__(self, max_side: int) -> None:
        self._max_side = max_side
        self._lock = threading.Lock()
        self._urls: LRUCache[str, str] = LRUCache(KEPT_BYTES, getsizeof=len)
        self.encoded = 0

    def digest(self, image: Image.Image) -> str:
        """Compute the SHA-256 of the image's size and pixels."""
        rgb = fit_picture(image, max(image.size))
        return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()

    def url(self, digest: str, image: Image.Image) -> str:
        """Return the image as a PNG in a data URL."""
        with self._lock:
            if digest in self._urls:
                return self._urls[digest]
            data = base64.b64encode(png_bytes(fit_picture(image, self._max_side))).decode("ascii")
            url = f"data:image/png;base64,{data}"
            self.encoded += 1
            if len(url) <= KEPT_BYTES:
                self._urls[digest] = url
            return url
