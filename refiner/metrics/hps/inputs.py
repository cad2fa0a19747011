"""Inputs of a scorer: images from any source, prompts, and their pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from refiner.errors import ConfigError, InputError
from refiner.images import Source, kept_from, load_image, open_image
from refiner.metadata import Kept

READING: Final = "v2,exif=turned,alpha=over_white,16bit=scaled,icc=to_srgb,tiny_or_narrow_or_no_prompt=refused"
"""How images and prompts are read, with a version that increases when the same file can be read in another way.

The authors' code (hpsv2) ignores EXIF and colour profiles, drops the alpha channel, clips 16-bit greys, and also scores
images with a side below 16 pixels or a ratio above 8:1, and empty prompts. Other images are read alike by both.
"""
DIFFERENCES: Final[Mapping[str, str]] = {
    "transparency laid over white": "alpha_over_white",
    "greys brought to 8 bits": "16bit_scaled",
    "turned upright by its EXIF": "exif_turned",
    "colours brought to sRGB": "icc_to_srgb",
}
"""What is noted of an image that the authors' code reads in another way -> the kind of problem it is counted as."""
_END = object()


def describe(source: Source, number: int) -> str:
    """The name of an image in a message: its path, or its number in the list."""
    return repr(str(source)) if isinstance(source, str | Path) else f"image {number}"


def paired(images: Iterable[Source], prompts: Iterable[str] | str) -> Iterator[tuple[Source, str]]:
    """Each image with its prompt, one at a time.

    Raises:
        ConfigError: one of the two ends before the other.
    """
    if isinstance(prompts, str):
        yield from ((image, prompts) for image in images)
        return
    for number, (image, prompt) in enumerate(itertools.zip_longest(images, prompts, fillvalue=_END)):
        if image is _END or prompt is _END:
            ended, more = ("images", "prompts") if image is _END else ("prompts", "images")
            raise ConfigError(
                f"Expected one prompt for each image, got {number} {ended} and more {more}: give as many of both."
            )
        yield image, prompt  # type: ignore[misc]


def check_prompt(prompt: str, called: str) -> None:
    """Refuse prompts that a tokenizer cannot read.

    Raises:
        InputError: not a string, empty, or not valid Unicode.
    """
    if not isinstance(prompt, str):
        raise InputError(f"Expected a prompt for {called}, got {type(prompt).__name__}: give the prompt of the image.")
    if not prompt.strip():
        raise InputError(f"Expected a prompt for {called}, got an empty one: give the prompt of the image.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"The prompt of {called} is not valid Unicode at character {error.start}: read the file as UTF-8."
        ) from error


def read(source: Source) -> tuple[Image.Image, tuple[str, ...]]:
    """An image as upright RGB, and what had to be changed for that, in words.

    Raises:
        InputError: it cannot be used.
    """
    image = load_image(source)
    return image, _changes(source, kept_from(image))


def _changes(source: Source, kept: Kept) -> tuple[str, ...]:
    alpha, deep, turned, recoloured = kept.rgba is not None, False, False, False
    if isinstance(source, np.ndarray):
        deep = source.dtype == np.uint16
    elif isinstance(source, str | PathLike | Image.Image):
        # load_image names a file that cannot be opened; an image with unreadable EXIF is not turned
        with (
            suppress(Exception),
            nullcontext(source) if isinstance(source, Image.Image) else open_image(source) as image,
        ):
            deep = image.mode == "F" or image.mode.startswith("I")
            recoloured = kept.icc_profile is not None and kept.icc_profile != image.info.get("icc_profile")
            if "exif" in image.info:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    changes = zip(DIFFERENCES, (alpha, deep, turned, recoloured), strict=True)
    return tuple(note for note, true in changes if true)
