"""The splits of AnomReason: which images are for training, and which for testing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.reading import read_text, reason_of

SPLITS: Final = "dataset_split_list.json"
"""Name of the file: JSON of split -> list of image names."""


class Splits:
    """The splits of a folder, and the one that is wanted.

    A name in a list is a file name or a path. Kinds of problems: ``bad_split`` (a name that is not a text, or a split
    that is not a list), ``two_splits`` (a name in two of them; the first one counts), and of the wanted split
    ``missing_record`` (a name of no image).

    Args:
        folder: with the file, if there is one.
        wanted: name of a split; None for all images.
        problems: gets the problems.

    Raises:
        InputError: the file is damaged, or there is none and a split is wanted.
        ConfigError: there is no such split.
    """

    def __init__(self, folder: Path, wanted: str | None, problems: list[Problem]) -> None:
        self.file, self.wanted, self.problems = folder / SPLITS, wanted, problems
        self._splits: dict[str, str] = {}
        self._met: set[str] = set()
        document = _read(self.file) if self.file.exists() else {}
        if wanted is not None and not document:
            raise InputError(f"Expected the splits in {str(self.file)!r}, got none: add the file, or name no split.")
        if wanted is not None and wanted not in document:
            known = ", ".join(document)
            raise ConfigError(
                f"Expected a split of {str(self.file)!r} ({known:.200}), got {wanted!r:.60}: use one of these."
            )
        for split, names in document.items():
            for name in self._names(split, names):
                if (first := self._splits.setdefault(name, split)) != split:
                    detail = f"in the splits {first} and {split}; the first one counts"
                    problems.append(Problem("two_splits", str(self.file), f"{name:.200}", detail))

    def _names(self, split: str, names: object) -> Iterator[str]:
        if not isinstance(names, list):
            detail = f"expected a list of image names, got {names!r:.60}"
            self.problems.append(Problem("bad_split", str(self.file), f"{split:.60}", detail))
            return
        for name in names:
            if isinstance(name, str) and name.strip():
                yield same(name.strip())
            else:
                detail = f"expected the name of an image, got {name!r:.60}"
                self.problems.append(Problem("bad_split", str(self.file), f"{split:.60}", detail))

    def of(self, names: Iterable[str]) -> str:
        """The split of an image, by the first of its names that is in one; "" if none is."""
        found = [name for name in map(same, names) if name in self._splits]
        self._met.update(found)
        return self._splits[found[0]] if found else ""

    def wants(self, split: str, image: str) -> bool:
        """Whether an image of this split is wanted; one that is in no split is named."""
        if self.wanted is None:
            return True
        if not split:
            self.problems.append(Problem("no_split", str(self.file), image, "the image is in no split; left out"))
        return split == self.wanted

    def finish(self) -> None:
        """Name the images of the wanted split that were not met."""
        for name, split in self._splits.items():
            if split == self.wanted and name not in self._met:
                detail = f"in the split {split}, but there is no such image with a record"
                self.problems.append(Problem("missing_record", str(self.file), f"{name:.200}", detail))


def _read(file: Path) -> Json:
    try:
        document = json.loads(read_text(file))
        if isinstance(document, dict):
            return document
        reason = f"it holds {document!r:.60}"
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
    raise InputError(f"Cannot read the splits in {str(file)!r} ({reason}): give JSON of split -> list of image names.")
