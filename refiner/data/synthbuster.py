"""Synthbuster: images of nine generators, made from what photographs of RAISE show (Bammey, IEEE OJSP 2023).

Read in code that uses it: ``FOLDER/GENERATOR/NAME.png``, where NAME is that of the photograph in RAISE. The photographs
are not part of the data set. They are the folder ``real_RAISE_1k`` beside the generators (as the script of
ClipBased-SyntheticImageDetection unpacks them), or the folder of the option ``real=``; another folder whose name holds
``raise`` is our guess. Folders ``0_real`` and ``1_fake`` inside of a generator's, as some copies have them, are read
too.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import isdir
from pathlib import Path, PurePosixPath

from refiner.data.anomreason import REAL
from refiner.data.folders import find_images
from refiner.data.names import same
from refiner.data.verdicts import SPLITS, VerdictFolders, folders_of
from refiner.errors import InputError


class SynthbusterData(VerdictFolders):
    """Synthbuster as a data set; the group is the generator, and a photograph belongs to no group.

    The pair is the name of the photograph. An image in no folder is counted as ``unlabelled`` and left out.

    Args:
        folder: the root.
        real: a folder of photographs elsewhere, at any depth; their names begin with ``0_real/``.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, folder: str, *, real: str | None = None) -> None:
        self.real = None if real is None else Path(real)
        if real is not None and not isdir(real):
            raise InputError(f"Expected a folder of photographs, but {real!r} is not a folder: check the path.")
        super().__init__(folder)

    def _labelled(self) -> Iterator[str]:
        seen = set()
        for name in super()._labelled():
            if self.real is None or not (self.root / name).resolve().is_relative_to(self.real.resolve()):
                seen.add(name)
                yield name
        for photograph in () if self.real is None else find_images(self.real, deep=True):
            if (name := f"{REAL}/{photograph}") not in seen:
                yield name

    def _fake(self, name: str) -> bool | None:
        folders = folders_of(name)
        if any(part in self.labels for part in folders):
            return super()._fake(name)
        return not any("raise" in part.lower() for part in folders) if folders else None

    def _group(self, name: str) -> str:
        above = [part for part in self._above(name) if part not in SPLITS and "raise" not in part.lower()]
        return above[-1] if above else ""

    def _pair(self, name: str) -> str:
        return same(PurePosixPath(name).stem)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if self.real is not None and name.startswith(f"{REAL}/") and not path.exists():
            return self.real / name.removeprefix(f"{REAL}/")
        return path
