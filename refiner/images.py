"""Reading and writing images: every supported source becomes an upright RGB image; PNG files are written atomically."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from refiner.colours import to_srgb
from refiner.errors import InputError, MissingImageError
from refiner.files import atomic_write
from refiner.metadata import XMP, Kept, over_white, read_metadata
from refiner.png_chunks import readable

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_RATIO = 8.0

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
"""The Pillow formats that are read. Formats that need another program (EPS) or hold icons or cursors are left out."""

Source: TypeAlias = "str | PathLike[str] | Image.Image | NDArray[Any] | torch.Tensor"
"""What ``load_image`` reads; see there."""

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:")
_ROUNDING = 1e-3
"""Floats may leave their range by this much."""


def load_image(source: Source) -> Image.Image:
    """Read an image as a new, upright RGB image in the colours of sRGB.

    EXIF orientation is applied. Pixels with another colour profile are converted. Transparent pixels are blended with
    white. 16-bit and float greyscale values are scaled to 8 bits. Of an animation, only the first frame is read. The
    image remembers its metadata and transparency, so that what is saved of it keeps them.

    Args:
        source: a path; a Pillow image of any mode; an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a
            tensor of shape (H, W), (C, H, W) or (1, C, H, W), where C is 1, 3 or 4. Values of arrays and tensors are
            bool, uint8, uint16, or floats in [0, 1]. If a tensor has a value below 0, its values are read as floats in
            [-1, 1], as diffusers does, with a warning that says so.

    Raises:
        InputError: the source is missing, empty, truncated or not an image; it is an address or a list; its values are
            out of range; it has more than ``MAX_PIXELS`` pixels (checked before decoding); a side is shorter than
            ``MIN_SIDE`` pixels; or the ratio of the longer to the shorter side exceeds ``MAX_RATIO``.
    """
    return _load(source, "the image")


def load_images(source: Source | Sequence[Source]) -> list[Image.Image]:
    """Read one image or several; each becomes what ``load_image`` makes of it.

    Args:
        source: what ``load_image`` reads; a list or tuple of these; an array (N, H, W, C); or a tensor (N, C, H, W).
            The range of floats is that of the whole array or tensor.

    Returns:
        The images in order; a single source is a list of one.

    Raises:
        InputError: see ``load_image``; or there is no image.
    """
    if isinstance(source, list | tuple):
        items = [(one, f"image {number} of the list") for number, one in enumerate(source, start=1)]
    elif (array := _as_array(source)) is not None and array.ndim == 4:
        whole = _eight_bits(array, "the batch", signed=_is_tensor(source))
        items = [(one, f"image {number} of the batch") for number, one in enumerate(whole, start=1)]
    else:
        items = [(source, "the image")]
    if not items:
        raise InputError("Expected one image or several, got an empty list: pass at least one image.")
    return [_load(one, name) for one, name in items]


def kept_from(image: Image.Image) -> Kept:
    """Return the metadata that ``load_image`` read with an image; empty if it did not read the image."""
    kept: Kept = getattr(image, "refiner_kept", Kept())
    return kept


def _load(source: Source, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return _decode(source, name)
    if isinstance(source, str | PathLike):
        return _from_file(source)
    array = _as_array(source)
    if array is not None:
        single = array.ndim == 4 and len(array) == 1 and _is_tensor(source)
        return _from_array(array[0] if single else array, name, tuple(source.shape), signed=_is_tensor(source))
    if isinstance(source, list | tuple):
        raise InputError(
            f"Expected one image, got a {type(source).__name__} of {len(source)} as {name}: pass one image at a time, "
            "or read several with refiner.images.load_images."
        )
    raise InputError(
        f"Expected a path, a Pillow image, an array or a tensor, got {type(source).__name__} as {name}: pass one of "
        "these."
    )


def _is_tensor(source: object) -> bool:
    torch = sys.modules.get("torch")  # without it there are no tensors
    return torch is not None and isinstance(source, torch.Tensor)


def _as_array(source: Any) -> NDArray[Any] | None:
    """An array, or a tensor with its channels moved to the end; None for other sources."""
    if isinstance(source, np.ndarray):
        return source
    if not _is_tensor(source):
        return None
    values = source.detach().cpu()
    if values.is_floating_point():
        values = values.float()
    array: NDArray[Any] = values.numpy()
    return np.moveaxis(array, -3, -1) if array.ndim in (3, 4) else array


def _from_file(source: str | PathLike[str]) -> Image.Image:
    name = repr(str(source))
    if _ADDRESS.match(str(source)):
        raise InputError(
            f"Expected an image, got the address {name[:80]}: download it first, such as with "
            "diffusers.utils.load_image, and pass that image."
        )
    path = Path(source)
    _check_file(path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(path)
        except Image.UnidentifiedImageError as error:
            raise InputError(f"{name} is not a supported image format: use a PNG or JPEG.") from error
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except Exception as error:
            raise _damaged(name) from error
        with image:
            return _decode(image, name)


def open_image(source: str | PathLike[str] | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image file as ``PIL.Image.open`` does, also a PNG with texts or a profile that Pillow finds too long.

    Such texts are left out, and such profiles kept up to ``png_chunks.MOST_PROFILE`` bytes.

    Args:
        source: a path, or an open file.
        formats: Pillow formats that may be read.

    Raises:
        OSError, ValueError and others of a decoder: it cannot be opened.
    """
    if isinstance(source, str | PathLike):
        with open(source, "rb") as file:
            found = readable(file)
        kept = source if found.file is file else found.file
    else:
        found = readable(source)
        kept = found.file
    image = Image.open(kept, formats=formats)
    if found.profile:
        image.info["icc_profile"] = found.profile
    return image


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
    known: Kept | None = getattr(image, "refiner_kept", None)
    upright = _upright(image)
    rgb, rgba, icc_profile = _to_rgb(upright, name)
    loaded: Any = Image.frombytes("RGB", rgb.size, rgb.tobytes())  # without Pillow's metadata of the source
    loaded.refiner_kept = known or read_metadata(upright, icc_profile=icc_profile, rgba=rgba)
    loaded.refiner_orientation = orientation_tag(image)
    return loaded


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of the file that ``load_image`` read an image from; 1: it was not turned."""
    orientation: int = getattr(image, "refiner_orientation", 1)
    return orientation


def orientation_tag(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image as it is stored; 1 if it has none that can be read."""
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a decoder may raise any exception for damaged data
        return 1
    return tag if tag in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # without readable EXIF the orientation is unknown; the pixels are still usable
        return image
    upright.format = image.format
    return upright


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """The pixels as RGB over white, as RGBA if there is transparency, and their colour profile."""
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit_grey(np.asarray(image), name)
    if not image.has_transparency_data:
        rgb, profile = to_srgb(image, profile)
        return rgb, None, profile
    grey = image.mode in ("LA", "La")
    whole = (image.convert("LA") if grey else image).convert("RGBA")
    colours, profile = to_srgb(image.convert("LA").convert("L") if grey else whole.convert("RGB"), profile)
    colours.putalpha(whole.getchannel("A"))
    return over_white(colours), colours, profile


def _eight_bit_grey(values: NDArray[Any], name: str) -> Image.Image:
    """Convert greyscale of unknown depth: white is the smallest common full-scale value not below the maximum."""
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise InputError(f"Expected finite pixel values, got NaN or infinity in {name}: export it again.")
    if values.dtype.kind == "f":
        scales = [1.0, 255.0, 65535.0]
    else:
        scales = [65535.0] if values.dtype.itemsize == 2 else [255.0, 65535.0, 2.0**31 - 1]
    top = next((scale for scale in scales if grey.max() <= scale), float(grey.max()))
    return Image.fromarray(np.rint(np.clip(grey / top, 0.0, 1.0) * 255.0).astype(np.uint8))


def _from_array(array: NDArray[Any], name: str, shape: tuple[int, ...], *, signed: bool) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"Expected an image array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor (C, H, W), got shape "
            f"{shape} as {name}: pass one image at a time; arrays have their channels last."
        )
    _check_size((array.shape[1], array.shape[0]), name)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _decode(Image.fromarray(_eight_bits(array, name, signed=signed)), name)


def _eight_bits(array: NDArray[Any], name: str, *, signed: bool) -> NDArray[np.uint8]:
    """Convert the values of an array to uint8; ``signed``: floats of which one is below 0 are read as [-1, 1]."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    signed = signed and low < -_ROUNDING
    floor = -1 if signed else 0
    if array.dtype.kind != "f" or not floor - _ROUNDING <= low <= high <= 1 + _ROUNDING:
        wanted = "floats in [-1, 1], because some are below 0" if signed else "floats in [0, 1]"
        raise InputError(
            f"Expected pixel values as bool, uint8, uint16 or {wanted}, got {array.dtype} from {array.min()} to "
            f"{array.max()} in {name}: convert the values first."
        )
    values = array.astype(np.float64)
    if signed:
        warnings.warn(
            f"The values of {name} are read as floats in [-1, 1], because some are below 0: pass values in [0, 1].",
            stacklevel=2,
        )
        values = values / 2 + 0.5
    return np.rint(np.clip(values, 0, 1) * 255.0).astype(np.uint8)


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
