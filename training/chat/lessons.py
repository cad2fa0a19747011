"""Questions and right answers about the samples of a data set, as trl's trainers take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from refiner.data.samples import DataSet, Sample
from refiner.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

L = TypeVar("L")


class Lessons(Generic[L]):
    """The lessons of a data set, or of the given rows of it.

    A sample that cannot be used is told once, and the next one takes its place.

    Args:
        data: the data set.
        read: makes the lesson of a sample; raises ``InputError`` if the sample cannot be used.
        tell: shows a sentence.
        rows: None: all rows.
    """

    def __init__(
        self,
        data: DataSet,
        read: Callable[[Sample], L],
        tell: Callable[[str], None],
        rows: Sequence[int] | None = None,
    ) -> None:
        self.data, self.read, self.tell = data, read, tell
        self.rows = list(range(len(data.names))) if rows is None else list(rows)
        self.unusable: dict[int, str] = {}
        self._recent = lru_cache(256)(self._read)  # some trainers ask for the same image several times in a row

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> L:
        """The lesson at a place, or the next one that can be used.

        Raises:
            InputError: no sample can be used.
        """
        for step in range(len(self.rows)):
            row = self.rows[(place + step) % len(self.rows)]
            if row in self.unusable:
                continue
            try:
                return self._recent(row)
            except InputError as error:
                self.unusable[row] = str(error)
                self.tell(f"Not used: {error}")
        raise InputError(f"Expected samples with a verdict or flaws, got none that can be used of {len(self.rows)}.")

    def _read(self, row: int) -> L:
        return self.read(self.data.load(row))

    def dataset(self, columns: Callable[[L, int], Mapping[str, Any]], times: int = 1) -> Dataset:
        """Rows for a trainer, made when they are needed.

        Args:
            columns: the columns of a lesson; the int counts from 0 to ``times`` - 1.
            times: how often each lesson occurs.
        """
        from datasets import Dataset

        def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            rows = [columns(self[place // times], place % times) for place in batch["place"]]
            return {name: [each[name] for each in rows] for name in rows[0]}

        made = Dataset.from_dict({"place": list(range(times * len(self)))})
        made.set_transform(read)
        return made
