"""Colour profiles: pixels in the colours of an ICC profile become sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour spaces of profiles that are read, and the mode of the pixels that they describe."""
_SAME = 2
"""A profile counts as sRGB if it changes no level by more than this, of 255."""
_DATE = slice(24, 36)


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert an image without transparency to RGB, by its colour profile.

    Args:
        image: in mode L, RGB or CMYK, or another one that Pillow converts to RGB.
        profile: its ICC profile; None: grey and RGB are taken as sRGB. So they are if the profile is broken or
            describes another colour space.

    Returns:
        The RGB image, and the profile of its pixels: ``profile`` itself if it is sRGB, a profile of sRGB if the pixels
        were converted, None if there is no usable profile.
    """
    if not profile:
        return image.convert("RGB"), None
    try:
        wanted = _mode_of(profile)
        if wanted == "RGB" and image.mode != "CMYK":
            image = image.convert("RGB")
        transform = _transform(profile, image.mode)
        if transform is None:
            return image, profile
        return transform.apply(image), srgb_profile()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # a broken profile says nothing about the pixels
        return image.convert("RGB"), None


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB; the same bytes at any time."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[_DATE] = bytes(_DATE.stop - _DATE.start)
    return bytes(data)


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


@lru_cache(maxsize=8)
def _mode_of(profile: bytes) -> str | None:
    return _MODES.get(_opened(profile).profile.xcolor_space.strip())


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of pixels of ``mode`` to sRGB; None if the profile is sRGB.

    Raises:
        ValueError: the profile describes another mode.
    """
    if mode != _mode_of(profile):
        raise ValueError(f"The profile does not describe pixels of mode {mode}.")
    transform = ImageCms.buildTransform(
        _opened(profile),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode != "RGB":
        return transform
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    changed = np.asarray(transform.apply(Image.fromarray(colours))).astype(int)
    return None if np.abs(changed - colours).max() <= _SAME else transform
