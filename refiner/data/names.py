"""Names of images in records and on the disk, which may be written differently and still be the same.

A path may have back-slashes (Windows), and an accent may be one letter with its base or a letter of its own (macOS
decomposes names to NFD, most other programs write NFC). Names are compared without these differences.
"""

from __future__ import annotations

import unicodedata
from os.path import lexists
from pathlib import Path, PurePosixPath


def with_slashes(name: str) -> str:
    """A path with forward slashes."""
    return name.replace("\\", "/")


def same(name: str) -> str:
    """The form of a name by which names are compared: forward slashes, accents composed (NFC)."""
    return name if name.isascii() and "\\" not in name else unicodedata.normalize("NFC", with_slashes(name))


def basename(name: str) -> str:
    """The file name in a path, with either kind of slash, in the form of ``same``."""
    return PurePosixPath(same(name)).name


def find_file(folder: Path, name: str) -> Path:
    """The file of a name in a folder, however its accents are written there.

    Args:
        folder: an existing one.
        name: a path from there with forward slashes.

    Returns:
        The path of the file; of one that does not exist as the name has it.
    """
    path = folder / name
    if name.isascii() or lexists(path):
        return path
    found = folder
    for part in PurePosixPath(name).parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found = next((each for form in forms if lexists(each := found / form)), found / part)
    return found if lexists(found) else path
