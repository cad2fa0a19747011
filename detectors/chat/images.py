"""Pictures as chat models are shown them."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict

from PIL import Image

from refiner.errors import InputError
from refiner.images import png_bytes

MAX_SIDE = 1536
"""Longest side, in pixels, of the pictures that a model is shown by default."""
KEPT_BYTES = 256_000_000
"""Encoded pictures that are kept for further requests."""


def fit_picture(image: Image.Image, max_side: int) -> Image.Image:
    """The picture as a model is shown it: RGB, scaled down where its longest side is above ``max_side`` pixels.

    Raises:
        InputError: its pixels cannot be read.
    """
    try:
        scale = max_side / max(image.size)
        rgb = image.convert("RGB")
        if scale >= 1:
            return rgb
        width, height = (max(1, round(side * scale)) for side in image.size)
        return rgb.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    except (OSError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"Expected a whole picture, got one that fails with {error}: load it again.") from error


class Pictures:
    """Pictures as data URLs, each encoded once, known by their pixels."""

    def __init__(self, max_side: int) -> None:
        self._max_side = max_side
        self._lock = threading.Lock()
        self._urls: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0
        self.encoded = 0

    def digest(self, image: Image.Image) -> str:
        """A name for the picture's pixels."""
        rgb = fit_picture(image, max(image.size))
        return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()

    def url(self, digest: str, image: Image.Image) -> str:
        """The picture as a PNG in a data URL."""
        with self._lock:
            if digest in self._urls:
                self._urls.move_to_end(digest)
                return self._urls[digest]
            data = base64.b64encode(png_bytes(fit_picture(image, self._max_side))).decode("ascii")
            url = self._urls[digest] = f"data:image/png;base64,{data}"
            self.encoded += 1
            self._bytes += len(url)
            while self._bytes > KEPT_BYTES and len(self._urls) > 1:
                self._bytes -= len(self._urls.popitem(last=False)[1])
            return url
