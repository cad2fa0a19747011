"""Problems of an input: each is named with its file and counted, and the run continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from refiner.data.names import same
from refiner.reading import shown


class Problem(NamedTuple):
    """A part of the input that could not be used."""

    kind: str
    """One word for the table of counts, such as ``wrong_size``."""
    file: str
    where: str
    """The place in the file: an image, a row, or both; may be empty."""
    detail: str

    def __str__(self) -> str:
        return ": ".join(shown(part, 300) for part in (self.file, self.where, self.detail) if part)


def count_problems(problems: Iterable[Problem]) -> dict[str, int]:
    """The number of problems of each kind, sorted by kind."""
    return dict(sorted(Counter(problem.kind for problem in problems).items()))


class UnusableError(ValueError):
    """Why a record cannot be used.

    Args:
        kind: of the problem.
        detail: of the problem.
        where: added to the place of the record.
    """

    def __init__(self, kind: str, detail: str, where: str = "") -> None:
        super().__init__(detail)
        self.kind, self.where = kind, where


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


def usable_records(
    records: Iterable[tuple[str, Any, Any]],
    read: Callable[[Any, Any], _T],
    file: str,
    problems: list[Problem],
    seen: set[str],
) -> Iterator[_T]:
    """Read records and leave out those that cannot be used or repeat a name.

    Args:
        records: place in words, value and place of each.
        read: from value and place to an object with a name; raises ``UnusableError``.
        file: that holds the records.
        problems: gets the problems; for a repeated name ``duplicate_image``.
        seen: the names so far, in the form of ``names.same``.
    """
    for where, value, place in records:
        try:
            found = read(value, place)
        except UnusableError as error:
            problems.append(Problem(error.kind, file, where + error.where, str(error)))
            continue
        if (name := same(found.name)) in seen:
            detail = "an earlier record has the same name; the first one counts"
            problems.append(Problem("duplicate_image", file, found.name, detail))
            continue
        seen.add(name)
        yield found
