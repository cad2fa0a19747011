"""The list of all candidates of a source, kept in a file so that the images are read only once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from refiner.data.problems import Problem, count_problems
from refiner.errors import InputError
from refiner.files import Json, atomic_stream, dumps
from refiner.taxonomy import Category
from refiner.verify.candidates import Look
from refiner.verify.sources import Source

LIST_FILE: Final = "candidates.jsonl"
_SCHEMA: Final = 1


class Row(NamedTuple):
    """A candidate in the list."""

    id: str
    image: str
    """Name of the image."""
    place: str
    """Of the look that has it, for ``Source.load``."""
    number: int
    """In its image, from 1."""
    category: str | None
    """None if unknown."""
    severity: float | None
    """In [0, 1], 1 = worst; None if unknown."""
    placed: bool
    """Whether it is known where in the image it is."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All candidates of a source, each once, in the order of the source."""

    rows: tuple[Row, ...]
    images: int
    """Images that were read, those without a candidate included."""
    duplicates: int = 0
    """Candidates that were left out because they were listed before."""
    problems: Mapping[str, int] = field(default_factory=dict)
    """Images that are not known, by kind of the problem. They are in no other number."""


def list_candidates(source: Source, problems: list[Problem], numbers: Iterable[int]) -> Listing:
    """List the candidates of a source.

    Args:
        source: of the candidates.
        problems: gets what cannot be read: ``failed``, ``unreadable_record``, ``unreadable_sample`` and
            ``unreadable_image``.
        numbers: as many as there are entries to read, such as ``range(len(source))``.

    Raises:
        InputError: there is no candidate.
    """
    rows: dict[str, Row] = {}
    images: set[str] = set()
    duplicates, own = 0, list[Problem]()
    for _, entry in zip(numbers, source, strict=False):
        if isinstance(entry, Problem):
            own.append(entry)
            continue
        for place, look in entry.items():
            try:
                found = _rows(place, look)
            except InputError as error:
                own.append(Problem("unreadable_image", f"{look.name!r:.200}", "", str(error)))
                continue
            images.add(look.name)
            for row in found:
                duplicates += row.id in rows
                rows.setdefault(row.id, row)
    problems += own
    if not rows:
        counts = f"{len(images)} images without one, {len(own)} that cannot be used"
        raise InputError(f"Expected flaws that can be checked, got none ({counts}): choose other data.")
    return Listing(rows=tuple(rows.values()), images=len(images), duplicates=duplicates, problems=count_problems(own))


def _rows(place: str, look: Look) -> list[Row]:
    rows = []
    for each in look.candidates():
        claim = each.flaw.claim
        category = None if claim.category is None else str(claim.category)
        rows.append(Row(each.id, look.name, place, each.number, category, claim.severity, claim.box is not None))
    return rows


def stored_list(folder: Path, stamp: Json) -> Listing | None:
    """The list of an earlier run; None if there is none, or if it is of another source, incomplete or damaged.

    Args:
        folder: of the list.
        stamp: of the source and the entries that were read.
    """
    try:
        with (folder / LIST_FILE).open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            if head["schema"] != _SCHEMA or head["stamp"] != json.loads(dumps(stamp)) or head["problems"]:
                return None
            rows = tuple(_row(json.loads(line)) for line in lines)
            if len(rows) != head["candidates"] or not rows:
                return None
            return Listing(rows=rows, images=int(head["images"]), duplicates=int(head["duplicates"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return None


def _row(values: Any) -> Row:
    id_, image, place, number, category, severity, placed = values
    if not all(isinstance(text, str) for text in (id_, image, place)):
        raise ValueError("a text is missing")
    kind = None if category is None else str(Category(category))
    return Row(id_, image, place, int(number), kind, None if severity is None else float(severity), bool(placed))


def store_list(folder: Path, listing: Listing, stamp: Json) -> None:
    """Write the list, so that ``stored_list`` finds it.

    Raises:
        OutputError: it cannot be written.
    """
    counts = {"candidates": len(listing.rows), "images": listing.images, "duplicates": listing.duplicates}
    head = {"schema": _SCHEMA, "stamp": stamp, "problems": dict(listing.problems), **counts}
    with atomic_stream(folder / LIST_FILE) as stream:
        for document in (head, *map(list, listing.rows)):
            stream.write(dumps(document, indent=None) + "\n")
