"""Folders that say which images are generated, as most data sets of real and generated images have them.

Somewhere in an image's path stands the folder of its verdict, such as ``1_fake``. The folders above it name the
generator, and the images from cameras that it is compared with. A folder ``train``, ``val`` or ``test`` may stand
anywhere above the verdict. Each data set is a subclass that says what its folders are called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import ClassVar, Final

from refiner.data.anomreason import FAKE, REAL
from refiner.data.folders import find_images
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.errors import ConfigError, InputError
from refiner.images import load_image

LABELS: Final[Mapping[str, bool]] = MappingProxyType({REAL: False, FAKE: True})
"""Folder -> whether its images are generated, in most data sets."""
SPLITS: Final = frozenset({"train", "val", "test"})
"""Folders that do not name a generator."""


class VerdictFolders:
    """Images with a verdict each.

    The group is the first folder above the verdict that is not a split; without one it is the name of the root. An
    image that is not in one folder of ``labels`` is counted as ``unlabelled`` and left out. A link to a folder is not
    followed, and counted as ``ignored_link``.

    Args:
        folder: the root.
        split: one of ``SPLITS``: only its images; None for all.

    Raises:
        InputError: there is no such folder, or no image of the split.
        ConfigError: there is no such split.
    """

    labels: ClassVar[Mapping[str, bool]] = LABELS
    """Folder -> whether its images are generated."""

    def __init__(self, folder: str, *, split: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.root = Path(folder)
        if not os.path.isdir(folder):
            raise InputError(f"Expected a folder of generators, but {folder!r} is not a folder: check the path.")
        if split is not None and split not in SPLITS:
            raise ConfigError(f"Expected {', '.join(sorted(SPLITS))} as split, got {split!r:.60}: use one of these.")
        self.problems += _links(self.root)
        self.names = tuple(name for name in self._labelled() if split in (None, self._split(name)))
        if split is not None and not self.names:
            raise InputError(
                f"Expected images in folders {split!r} of {folder!r}, got none: check the path, or name no split."
            )

    def _labelled(self) -> Iterator[str]:
        for name in find_images(self.root, deep=True):
            if self._fake(name) is None:
                self.problems.append(Problem("unlabelled", str(self.root), name, self._unlabelled()))
            else:
                yield name

    def _unlabelled(self) -> str:
        return f"expected one folder {' or '.join(self.labels)} in its path; left out"

    def _fake(self, name: str) -> bool | None:
        """Whether an image is generated; None if its path does not say so."""
        found = [part for part in folders_of(name) if part in self.labels]
        return self.labels[found[0]] if len(found) == 1 else None

    def _above(self, name: str) -> list[str]:
        """The folders above the verdict."""
        folders = folders_of(name)
        return list(folders[: next((at for at, part in enumerate(folders) if part in self.labels), len(folders))])

    def _split(self, name: str) -> str:
        return next((part for part in self._above(name) if part in SPLITS), "")

    def _group(self, name: str) -> str:
        return next((part for part in self._above(name) if part not in SPLITS), self.root.resolve().name)

    def _pair(self, name: str) -> str:
        """What an image and its partners have in common; "" if it has none."""
        return ""

    @property
    def pairs(self) -> list[str]:
        """The pair of each sample."""
        return [self._pair(name) for name in self.names]

    def _path(self, name: str) -> Path:
        return self.root / name

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return Sample(
            name=name,
            group=self._group(name),
            image=load_image(self._path(name)),
            fake=self._fake(name),
            split=self._split(name),
            pair=self._pair(name),
        )


def folders_of(name: str) -> tuple[str, ...]:
    """The folders in an image's path."""
    return PurePosixPath(name).parts[:-1]


def _links(root: Path) -> Iterator[Problem]:
    """Links to folders below a folder; hidden ones are ignored."""
    for folder, below, _ in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in below:
            path = Path(folder) / name
            if path.is_symlink():
                where = path.relative_to(root).as_posix()
                yield Problem("ignored_link", str(root), where, "links to folders are not followed; name the folder")
