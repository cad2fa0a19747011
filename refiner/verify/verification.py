"""Candidates with the judgements about them: which one is next, and what is said about each."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from refiner.data.problems import Problem
from refiner.errors import InputError
from refiner.files import Json
from refiner.verify.candidates import Candidate, Look
from refiner.verify.judgements import Answer, Judgements, annotator_name
from refiner.verify.listing import LIST_FILE, Listing, Row, list_candidates, store_list, stored_list
from refiner.verify.sources import Source

_KEPT: Final = 4
"""Images in memory; candidates of one image follow each other."""


class Progress(NamedTuple):
    """How far an annotator is."""

    judged: int
    total: int
    broken: int
    """Candidates that cannot be shown, because their image cannot be read; they are among ``total``."""


class Verification:
    """The candidates of a source, and the judgements in a folder.

    Args:
        source: of the candidates.
        listing: of the source.
        folder: of the judgements; must exist.
    """

    def __init__(self, source: Source, listing: Listing, folder: Path) -> None:
        self.source, self.listing, self.folder = source, listing, folder
        self.judgements = Judgements(folder)
        self.rows = {row.id: row for row in listing.rows}
        self.broken: dict[str, str] = {}
        """Candidate that cannot be shown -> why."""
        self._look = functools.lru_cache(_KEPT)(source.load)

    def progress(self, annotator: str) -> Progress:
        """How far an annotator is; judgements about other candidates do not count."""
        judged = sum(candidate in self.rows for candidate in self.judgements.of(annotator))
        return Progress(judged, len(self.rows), len(self.broken))

    def next(self, annotator: str) -> str | None:
        """The first candidate in order that an annotator has not judged yet and that can be shown; None at the end."""
        judged = self.judgements.of(annotator)
        for row in self.listing.rows:
            if row.id in judged or row.id in self.broken:
                continue
            try:
                self.load(row.id)
            except InputError as error:
                self.broken[row.id] = str(error)
            else:
                return row.id
        return None

    def load(self, candidate: str) -> tuple[Look, Candidate]:
        """A candidate, and the image that it is about.

        Raises:
            InputError: there is no such candidate, or its image has changed or cannot be read.
        """
        row = self._row(candidate)
        look = self._look(row.place)
        _ = look.image
        for found in look.candidates():
            if found.id == candidate:
                return look, found
        raise InputError(
            f"The claims about {row.image!r} have changed: delete {str(self.folder / LIST_FILE)!r} and start again; "
            "the judgements stay."
        )

    def judge(self, candidate: str, annotator: str, answer: Answer) -> None:
        """Write a judgement; it is on the disk when this returns.

        Raises:
            InputError: there is no such candidate, or the annotator's name cannot be used.
            OutputError: it cannot be written.
        """
        self.judgements.add(self._row(candidate).id, annotator_name(annotator), answer)

    def undo(self, annotator: str) -> str | None:
        """Take an annotator's last judgement about one of these candidates back.

        Returns:
            The candidate; None if there is no judgement.

        Raises:
            OutputError: it cannot be written.
        """
        for candidate in reversed(self.judgements.of(annotator)):
            if candidate in self.rows:
                self.judgements.add(candidate, annotator, None)
                return candidate
        return None

    def _row(self, candidate: str) -> Row:
        if candidate not in self.rows:
            raise InputError(
                f"Expected one of {len(self.rows)} candidates, got {candidate[:60]!r}: load the page again."
            )
        return self.rows[candidate]


def open_verification(
    source: Source, folder: Path, problems: list[Problem], numbers: Iterable[int], *, limit: int | None = None
) -> Verification:
    """Open the candidates of a source; their list is kept in the folder, and made again if the source has changed.

    Args:
        source: of the candidates.
        folder: of list and judgements; must exist.
        problems: gets what cannot be read.
        numbers: as many as there are entries to read; only used if the list is made.
        limit: the number of entries to read, if it is not all of them.

    Raises:
        InputError: there is no candidate, or the judgements cannot be read.
        OutputError: the list cannot be written.
    """
    stamp: Json = {"source": source.stamp, "limit": limit}
    listing = stored_list(folder, stamp)
    if listing is None:
        listing = list_candidates(source, problems, numbers)
        store_list(folder, listing, stamp)
    return Verification(source, listing, folder)
