"""Image files, as people name them: single files, folders, patterns, and lists of paths."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from refiner.data.folders import SUFFIXES, find_images
from refiner.data.problems import Problem
from refiner.data.samples import DataSet, Sample
from refiner.errors import InputError
from refiner.images import load_image

STDIN: Final = "-"
"""In place of a list: the paths come from standard input."""
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def find_pictures(words: Sequence[str], lists: Sequence[str] = ()) -> tuple[str, ...]:
    """Find the image files that the words name, in order.

    Args:
        words: each is a file; a folder, which stands for all images below it, apart from hidden ones; a pattern such as
            ``runs/**/*.png``; or ``@FILE``, a list. A name that exists is never read as a pattern or a list.
        lists: files with one path in each line, or with a NUL byte after each path, as ``find -print0`` writes them.
            Each path is a file or a folder, seen from the current folder. ``-`` is standard input.

    Returns:
        The paths, with forward slashes. A file that is named twice is there twice; what folders, patterns and lists
        find is there once.

    Raises:
        InputError: a folder has no images, a pattern finds none, or a list is empty or cannot be read.
    """
    paths, seen = list[str](), set[str]()
    for word in [*words, *(f"@{file}" for file in lists)]:
        found = _several(word)
        for path in map(_slashed, [word] if found is None else found):
            if found is None or path not in seen:
                paths.append(path)
            seen.add(path)
    return tuple(paths)


def _slashed(path: str) -> str:
    return Path(path).as_posix()


def _several(word: str) -> Iterable[str] | None:
    """The files of a folder, a pattern or a list; None if the word names a single file."""
    if os.path.isdir(word):
        return _below(word)
    if os.path.lexists(word):
        return None
    if word.startswith("@"):
        return _listed(word[1:])
    if not glob.has_magic(word):
        return None
    found = sorted(glob.glob(word, recursive=True))
    files = [path for path in found if Path(path).suffix.lower() in SUFFIXES and not os.path.isdir(path)]
    files += [file for path in found if os.path.isdir(path) for file in _images(path)]
    if not files:
        raise InputError(f"No image matches the pattern {word!r}: check it, and put it in quotes.")
    return files


def _images(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in sorted(find_images(Path(folder), deep=True))]


def _below(folder: str) -> list[str]:
    if files := _images(folder):
        return files
    raise InputError(f"Expected images ({', '.join(sorted(SUFFIXES))}) in the folder {folder!r}, got none: add some.")


def _listed(file: str) -> list[str]:
    """The files that a list names; a folder in it stands for the images below it."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        text = content.decode("utf-16") if content.startswith(_UTF16) else os.fsdecode(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"Cannot read the list of images {file!r} ({reason}): give one path in each line.") from error
    text = text.removeprefix("\ufeff")
    lines = text.split("\0") if "\0" in text else [line.strip() for line in text.splitlines()]
    paths = [line for line in lines if line]
    if not paths:
        raise InputError(f"Expected paths of images in the list {file!r}, got none: write one path in each line.")
    return [each for path in paths for each in (_below(path) if os.path.isdir(path) else [path])]


@dataclass
class Pictures:
    """Image files as a data set. A name is the path of a file, and not unique if a file is named twice."""

    names: tuple[str, ...]
    prompts: tuple[str | None, ...]
    """The prompt of each image; None if it is not known."""
    problems: list[Problem] = field(default_factory=list)

    def load(self, index: int) -> Sample:
        """Read one image."""
        name = self.names[index]
        return Sample(name=name, prompt=self.prompts[index] or "", image=load_image(name))


class Prompted:
    """A data set whose samples get a prompt if they have none.

    Args:
        data: the data set.
        prompt: of these samples.
    """

    def __init__(self, data: DataSet, prompt: str) -> None:
        self.data, self.prompt = data, prompt
        self.problems, self.names = data.problems, data.names

    def load(self, index: int) -> Sample:
        """Read one sample."""
        sample = self.data.load(index)
        return sample if sample.prompt else replace(sample, prompt=self.prompt)
