"""What a scorer is given: pictures from anywhere, prompts, and how they pair up."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from refiner.errors import ConfigError, InputError
from refiner.images import Source, load_image

_END = object()


def describe(source: Source, number: int) -> str:
    """What to call a picture in a message: its path, or its number in the list."""
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
                f"Expected one prompt for each image, got {number} {ended} and more {more}: pair them up."
            )
        yield image, prompt  # type: ignore[misc]


def check_prompt(prompt: str, called: str) -> None:
    """Refuse what no tokenizer can make sense of.

    Raises:
        InputError: not a string, empty, or not valid Unicode.
    """
    if not isinstance(prompt, str):
        raise InputError(
            f"Expected a prompt for {called}, got {type(prompt).__name__}: pass the words that it was made from."
        )
    if not prompt.strip():
        raise InputError(f"Expected a prompt for {called}, got an empty one: pass the words it was made from.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"Expected valid Unicode in the prompt of {called}, got half a character at {error.start}: "
            "read the file as UTF-8."
        ) from error


def read(source: Source) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture as upright RGB, and what had to be changed for that, in words.

    Raises:
        InputError: it cannot be used.
    """
    if not isinstance(source, str | Path | Image.Image | np.ndarray):
        raise InputError(
            f"Expected a path, a Pillow image or an array, got {type(source).__name__}: pass one of these."
        )
    return load_image(source), _changes(source)


def _changes(source: Source) -> tuple[str, ...]:
    if isinstance(source, np.ndarray):
        deep = source.dtype == np.uint16
        return _notes(alpha=source.ndim == 3 and source.shape[2] == 4, deep=deep, turned=False)
    if isinstance(source, Image.Image):
        return _changes_of(source)
    with contextlib.suppress(Exception), Image.open(source) as image:  # load_image says what is wrong with it
        return _changes_of(image)
    return ()


def _changes_of(image: Image.Image) -> tuple[str, ...]:
    turned = False
    if "exif" in image.info:
        with contextlib.suppress(Exception):  # unreadable EXIF turns nothing
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return _notes(
        alpha=image.has_transparency_data, deep=image.mode == "F" or image.mode.startswith("I"), turned=turned
    )


def _notes(*, alpha: bool, deep: bool, turned: bool) -> tuple[str, ...]:
    said = {
        "transparency laid over white": alpha,
        "greys brought to 8 bits": deep,
        "turned upright by its EXIF": turned,
    }
    return tuple(note for note, true in said.items() if true)
