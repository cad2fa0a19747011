"""Problems of an input: each is named with its file and counted, and the run continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """A part of the input that could not be used."""

    kind: str
    """One word for the table of counts, such as ``wrong_size``."""
    file: str
    where: str
    """The place in the file: an image, a row, or both; may be empty."""
    detail: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.detail) if part)


def count_problems(problems: Iterable[Problem]) -> dict[str, int]:
    """The number of problems of each kind, sorted by kind."""
    return dict(sorted(Counter(problem.kind for problem in problems).items()))
