"""Names of files for samples: safe on every system, unique, and close to the samples' names."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Final

from refiner.data.anomreason import FAKE, REAL
from refiner.data.fakexplained.images import IMAGES
from refiner.data.folders import SUFFIXES

SUFFIX: Final = ".png"
_LONGEST: Final = 150
"""Bytes of a folder or file name, without suffix and number."""
_DEEPEST: Final = 8
"""Folders of a path."""
_UNSAFE: Final = re.compile(r"[^\w.-]")


class FileNames:
    """Gives each sample a path of its own, with forward slashes, that ends in ``.png``.

    Letters that some systems refuse become ``_``. Paths that differ only in case or in the encoding of an accent count
    as the same, and later ones get a number.

    Args:
        flat: give file names without folders; the names of the folders begin them, apart from those of labels.
    """

    def __init__(self, *, flat: bool = False) -> None:
        self._flat = flat
        self._used: set[str] = set()
        self._next: dict[str, int] = {}

    def of(self, name: str) -> str:
        """The path of a sample."""
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "//", "..")]
        if len(parts) > 1 and parts[0] == IMAGES:
            parts = parts[1:]
        *folders, file = parts or [""]
        stem = PurePosixPath(file).stem if PurePosixPath(file).suffix.lower() in SUFFIXES else file
        if self._flat:
            return self._unused(_safe("_".join([*(part for part in folders if part not in (FAKE, REAL)), stem])))
        path = "/".join([*map(_folder, folders[:_DEEPEST]), _safe(stem)])
        return self._unused(path)

    def _unused(self, path: str) -> str:
        key = _key(path)
        number = self._next.get(key, 1)
        found = path if number == 1 else f"{path}-{number}"
        while _key(found) in self._used:
            number += 1
            found = f"{path}-{number}"
        self._next[key] = number + 1
        self._used.add(_key(found))
        return found + SUFFIX


def _safe(part: str) -> str:
    """A name without letters that some systems refuse, and not hidden."""
    plain = _UNSAFE.sub("_", unicodedata.normalize("NFC", part)).strip(".")
    return plain.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore").rstrip(".") or "_"


def _folder(part: str) -> str:
    """A name of a folder, which no file has."""
    plain = _safe(part)
    return f"{plain}_" if plain.lower().endswith(SUFFIX) else plain


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
