"""Prepare images for chat models."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import threading
from concurrent.futures import Future

from cachetools import LRUCache
from PIL import Image

from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import InputError
from refiner.images import png_bytes

MAX_SIDE = 1536
"""Default longest side, in pixels, of the images shown to a model."""
PATCH = 28
"""For models that give boxes in pixels (Qwen2.5-VL), the sides of images are multiples of this, at least two."""
PNG_BYTES = 3_500_000
"""Largest PNG, in bytes, that is sent; larger ones become JPEG. Services take images of 5 MB in base64 and more."""
QUALITY = 95
"""Quality of the JPEG of an image whose PNG is too large."""
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
    """Images as data URLs; each image is encoded once and identified by its pixels. Several threads may share it.

    Args:
        max_side: longest side in pixels; larger images are scaled down.
        quality: of JPEG, 1 to 100; None: images are PNG, and JPEG only if the PNG is too large.
    """

    def __init__(self, max_side: int, quality: int | None = None) -> None:
        self._max_side, self._quality = max_side, quality
        self._lock = threading.Lock()
        self._urls: LRUCache[str, str] = LRUCache(KEPT_BYTES, getsizeof=len)
        self._coming: dict[str, Future[str]] = {}
        self.encoded = 0

    def digest(self, image: Image.Image) -> str:
        """Compute the SHA-256 of the image's size and pixels."""
        rgb = fit_picture(image, max(image.size))
        return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()

    def url(self, digest: str, image: Image.Image, *, jpeg: bool = False) -> str:
        """Return the image in a data URL; ``jpeg``: as JPEG, even if its PNG is small.

        Raises:
            InputError: the pixels cannot be read.
        """
        key = f"{digest} jpeg" if jpeg else digest
        with self._lock:
            if key in self._urls:
                return self._urls[key]
            first, coming = key not in self._coming, self._coming.setdefault(key, Future())
        if not first:
            return coming.result()
        try:
            coming.set_result(self._encoded(fit_picture(image, self._max_side), jpeg))
        except BaseException as error:
            coming.set_exception(error)
        with self._lock:
            del self._coming[key]
            if coming.exception() is None:
                self.encoded += 1
                if len(coming.result()) <= KEPT_BYTES:
                    self._urls[key] = coming.result()
        return coming.result()

    def _encoded(self, picture: Image.Image, jpeg: bool) -> str:
        data, kind = b"", "png"
        if self._quality is None and not jpeg:
            data = png_bytes(picture)
        if not data or len(data) > PNG_BYTES:
            buffer, kind = io.BytesIO(), "jpeg"
            picture.save(buffer, "JPEG", quality=self._quality or QUALITY, subsampling=0)
            data = buffer.getvalue()
        return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
