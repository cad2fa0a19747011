"""What was wrong with an input: named with its file, counted, and passed over, so that a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """Something in the input that could not be used as it stood; the run went on."""

    kind: str
    """One word for the table that counts them, such as ``wrong_size``."""
    file: str
    where: str
    """The place in the file: an image, a row, or both; may be empty."""
    detail: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.detail) if part)


def count_problems(problems: Iterable[Problem]) -> dict[str, int]:
    """How many there are of each kind, by name of the kind."""
    return dict(sorted(Counter(problem.kind for problem in problems).items()))
