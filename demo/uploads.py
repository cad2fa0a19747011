"""Images that visitors upload: checked against limits before they are decoded. Errors show no path of the server."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Final

from PIL import Image

from refiner.demo.settings import DemoSettings
from refiner.errors import InputError
from refiner.images import load_image, open_image
from refiner.reports.overlays import fitted

_DECODING: Final = threading.Lock()
"""Only one image is decoded at a time, so that several large ones do not fill the memory."""


def read_upload(path: str | Path, settings: DemoSettings) -> Image.Image:
    """Read an uploaded image.

    Returns:
        RGB, upright (EXIF orientation applied), its longer side at most ``settings.max_side`` pixels.

    Raises:
        InputError: too many bytes or pixels, a damaged file or not an image. The message holds the file's name without
            its path.
    """
    file = Path(path)
    try:
        with _DECODING:
            _check(file, settings)
            image = load_image(file)
            return fitted(image, settings.max_side) if max(image.size) > settings.max_side else image
    except InputError as error:
        raise InputError(str(error).replace(repr(str(file)), repr(file.name)).replace(str(file), file.name)) from error


def _check(file: Path, settings: DemoSettings) -> None:
    """Check the limits that need no decoding. ``load_image`` reports files that are not images."""
    try:
        size = file.stat().st_size
        if size > settings.max_file_bytes:
            raise InputError(
                f"Upload a smaller file: at most {settings.max_file_bytes / 2**20:.3g} MiB, not {size / 2**20:.1f} as "
                f"{file.name!r}."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(file) as image:
                width, height = image.size
    except InputError:
        raise
    except Exception:  # missing, damaged or a decompression bomb: load_image says which
        return
    if width * height > settings.max_pixels:
        raise InputError(
            f"Upload a smaller image: at most {settings.max_pixels / 10**6:.3g} megapixels, not {width}x{height} as "
            f"{file.name!r}."
        )
