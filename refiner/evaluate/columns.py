"""Packed columns of numbers: what is in memory of each sample while a table is made.

Numbers are kept in blocks of ``BLOCK``. A full block has the smallest dtype that holds its numbers exactly; a block of
equal numbers takes almost no memory. So counts of categories that do not occur are almost free.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK: Final = 512
"""Numbers per block."""
_SMALLER: Final = (np.uint8, np.uint16, np.uint32, np.float32)


class Column:
    """Numbers that are added one by one; NaN stands for a missing one.

    Args:
        missing: number of NaN at the start.
    """

    def __init__(self, missing: int = 0) -> None:
        self._packed: list[NDArray] = [np.broadcast_to(np.nan, BLOCK)] * (missing // BLOCK)
        self._last = array("d", [np.nan]) * (missing % BLOCK)

    def __len__(self) -> int:
        return len(self._packed) * BLOCK + len(self._last)

    def append(self, value: float) -> None:
        """Add a number."""
        self._last.append(value)
        if len(self._last) == BLOCK:
            self._packed.append(_pack(np.array(self._last)))
            self._last = array("d")

    def block(self, number: int) -> Floats:
        """The numbers of one block, float64; the last block is shorter."""
        packed = self._packed[number] if number < len(self._packed) else np.array(self._last, dtype=np.float64)
        return packed.astype(np.float64, copy=False)

    def all(self) -> Floats:
        """All numbers, float64."""
        return np.concatenate([self.block(number) for number in range(len(self._packed) + 1)])

    @property
    def empty(self) -> bool:
        """Whether all numbers are NaN."""
        return all(np.isnan(self.block(number)).all() for number in range(len(self._packed) + 1))


def _pack(values: Floats) -> NDArray:
    bits = values.view(np.int64)
    if (bits == bits[0]).all():
        return np.broadcast_to(values[0].copy(), len(values))
    with np.errstate(invalid="ignore", over="ignore"):
        for kind in _SMALLER:
            small = values.astype(kind)
            if (small.astype(np.float64).view(np.int64) == bits).all():
                return small
    return values


class Columns(Mapping[str, Floats]):
    """Columns by name; each is unpacked on access.

    Args:
        columns: of equal length.
        chosen: bool, of that length, the rows to use; None for all.
    """

    def __init__(self, columns: Mapping[str, Column], chosen: NDArray[np.bool_] | None = None) -> None:
        self._columns, self._chosen = columns, chosen

    def __getitem__(self, name: str) -> Floats:
        values = self._columns[name].all()
        return values if self._chosen is None else values[self._chosen]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def rows_of(self, chosen: NDArray[np.bool_]) -> Columns:
        """The same columns, with only the chosen rows."""
        return Columns(self._columns, chosen)

    def block(self, number: int) -> Floats:
        """A block of rows, float64 (rows, columns); there must be at least one column."""
        return np.stack([column.block(number) for column in self._columns.values()], axis=1)
