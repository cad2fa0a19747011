"""A list of images to score, in the forms that AnomReason's evaluator takes (its ``--subset_json``)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.data.anomreason.anomalies import AnomalySet
from refiner.data.names import basename
from refiner.data.problems import Problem
from refiner.data.texts import is_unicode
from refiner.errors import InputError
from refiner.reading import read_text, reason_of


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Images to score, by file name or path."""

    file: str
    """Its path, for messages."""
    names: frozenset[str]
    problems: tuple[Problem, ...] = field(default=())

    @property
    def signature(self) -> str:
        """A fingerprint of the file names; figures of different subsets are not comparable."""
        names = sorted({basename(name) for name in self.names})
        return f"subset={hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:12]}"

    def of(self, part: AnomalySet) -> AnomalySet:
        """The images of a file that are in the subset.

        A name counts for the image of the same path, else for all images of the same file name.
        """
        exact = {basename(name) for name in self.names if name in part.images}
        loose = {basename(name) for name in self.names} - exact
        kept = {key: anomalies for key, anomalies in part.images.items() if key in self.names or basename(key) in loose}
        return dataclasses.replace(part, images=kept, unreadable=part.unreadable & kept.keys())


def read_subset(path: str | Path) -> Subset:
    """Read a JSON file: an object whose names are images, a list of images, or a list of objects with one name each.

    Problems: ``bad_name`` (neither a text nor an object with one name; left out).

    Raises:
        InputError: there is no such file, it is not such JSON, or it names no image.
    """
    document = _load(Path(path))
    names: set[str] = set()
    problems = []
    for number, entry in enumerate(document):
        name = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else entry
        if isinstance(name, str) and name.strip() and is_unicode(name):
            names.add(name.strip())
        else:
            detail = f"expected the name of an image, got {entry!r:.60}; left out"
            problems.append(Problem("bad_name", str(path), f"entry {number}", detail))
    if not names:
        raise InputError(f"Expected names of images in {str(path)!r}, got none: list the images to score.")
    return Subset(file=str(path), names=frozenset(names), problems=tuple(problems))


def _load(file: Path) -> dict[str, Any] | list[Any]:
    try:
        document = json.loads(read_text(file))
        if isinstance(document, dict | list):
            return document
        reason = f"it holds {document!r:.60}"
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
    raise InputError(f"Cannot read the images to score in {str(file)!r} ({reason}): give a JSON list of image names.")
