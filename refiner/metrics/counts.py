"""Whole numbers that add up over images and shards, and the figures that are computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


def ratio(part: float, whole: float, empty: float = 0.0) -> float:
    """``part / whole``, and ``empty`` for 0 / 0."""
    return part / whole if whole else empty


class Summed:
    """A dataclass whose fields are added one by one."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Hits(Summed):
    """True positives, false positives and false negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    @property
    def precision(self) -> float:
        """Share of the predictions that are right, in [0, 1]; 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the references that were found, in [0, 1]; 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in [0, 1]; 0 for 0 / 0."""
        return ratio(2 * self.precision * self.recall, self.precision + self.recall)
