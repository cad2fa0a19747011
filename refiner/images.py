"""Reading and writing images: every supported source becomes an upright RGB image; PNG files are written atomically."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from refiner.errors import InputError, MissingImageError
from refiner.files import atomic_write

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_RATIO = 8.0

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
"""The Pillow formats that are read. Formats that need another program (EPS) or hold icons or cursors are left out."""

Source = str | Path | Image.Image | NDArray[Any]


def load_image(source: Source) -> Image.Image:
    """Read an image as a new, upright RGB image.

    EXIF orientation is applied. Transparent pixels are blended with white. 16-bit and float greyscale values are
    scaled to 8 bits. Of an animation, only the first frame is read.

    Args:
        source: a path; a Pillow image of any mode; or an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with
            dtype bool, uint8, uint16, or floats in [0, 1].

    Raises:
        InputError: the source is missing, empty, truncated or not an image; it has more than ``MAX_PIXELS`` pixels
            (checked before decoding); a side is shorter than ``MIN_SIDE`` pixels; or the ratio of the longer to the
            shorter side exceeds ``MAX_RATIO``.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    path = Path(source)
    name = repr(str(source))
    _check_file(path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            raise InputError(f"{name} is not a supported image format: use a PNG or JPEG.") from error
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except Exception as error:
            raise _damaged(name) from error
        with image:
            return _decode(image, name)


def _check_file(path: Path, name: str) -> None:
    try:
        if not path.exists():
            raise MissingImageError(f"The image file {name} does not exist: check the path.")
        if not path.is_file():
            raise InputError(f"{name} is not a file: pass the path of the image itself.")
        if path.stat().st_size == 0:
            raise InputError(f"The image file {name} is empty (0 bytes): download or export it again.")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The image file {name} cannot be opened ({error}): check the path.") from error


def _too_large(name: str) -> InputError:
    return InputError(f"Expected at most {MAX_PIXELS // 10**6} megapixels, got more in {name}: scale it down first.")


def _damaged(name: str) -> InputError:
    return InputError(f"Cannot decode {name}, which is truncated or damaged: download or export it again.")


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(name)
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"Expected sides of at least {MIN_SIDE} pixels, got {width}x{height} in {name}: use a larger image."
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(
            f"Expected an aspect ratio of at most {MAX_RATIO:g}:1, got {width}x{height} in {name}: crop it first."
        )


def _decode(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    try:
        image.load()
    except Exception as error:  # a decoder may raise any exception for damaged data
        raise _damaged(name) from error
    return _to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # without readable EXIF the orientation is unknown; the pixels are still usable
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey_to_rgb(np.asarray(image), name)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    rgb = image.convert("RGB")
    return Image.frombytes("RGB", rgb.size, rgb.tobytes())  # without the source's metadata


def _grey_to_rgb(values: NDArray[Any], name: str) -> Image.Image:
    """Convert greyscale of unknown depth: white is the smallest common full-scale value not below the maximum."""
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise InputError(f"Expected finite pixel values, got NaN or infinity in {name}: export it again.")
    if values.dtype.kind == "f":
        scales = [1.0, 255.0, 65535.0]
    else:
        scales = [65535.0] if values.dtype.itemsize == 2 else [255.0, 65535.0, 2.0**31 - 1]
    top = next((scale for scale in scales if grey.max() <= scale), float(grey.max()))
    eight = np.rint(np.clip(grey / top, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(eight).convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"Expected an image array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got shape {array.shape}: "
            "pass one image at a time, channels last."
        )
    _check_size((array.shape[1], array.shape[0]), "the array")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.bool_:
        eight = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint8:
        eight = np.ascontiguousarray(array)
    elif array.dtype == np.uint16:
        eight = np.rint(array / 257.0).astype(np.uint8)
    elif array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        eight = np.rint(array.astype(np.float64) * 255.0).astype(np.uint8)
    else:
        raise InputError(
            f"Expected pixel values as bool, uint8, uint16 or floats in [0, 1], got {array.dtype} "
            f"from {array.min()} to {array.max()}: convert the array first."
        )
    return _to_rgb(Image.fromarray(eight), "the array")


def from_unit(pixels: NDArray[np.floating[Any]]) -> Image.Image:
    """Convert a model's output, float (H, W, 3) in [0, 1], to an RGB image; values outside the range are clipped."""
    scaled = pixels * 255
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    return Image.fromarray(scaled.astype(np.uint8))


def png_bytes(image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """Encode the image as a PNG file, with ``text`` as its metadata (keys of 1 to 79 Latin-1 characters)."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        if key == XMP:
            info.add_itxt(key, value)
        else:
            info.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(image: Image.Image, path: str | Path, text: Mapping[str, str] | None = None) -> Path:
    """Write a PNG file atomically, with ``text`` as its metadata.

    Raises:
        OutputError: the file cannot be written.
    """
    return atomic_write(path, png_bytes(image, text))


XMP = "XML:com.adobe.xmp"
"""The PNG text key of an XMP packet."""
