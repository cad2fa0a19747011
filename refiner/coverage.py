"""Coverage: of how many images a figure knows something, and what is missing. It stands beside every mean.

An image is ``answered``, ``unreadable`` or ``failed``, or was not run. An answer may have gaps, and is counted once
under each of them: it is ``cut_short``, ``unverified``, or has an ``unplaced`` flaw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

from refiner.types import Analysis, Gap

UNREADABLE: Final = frozenset({"UnreadableOutputError", "BadAnswerError"})
"""Kinds of errors that mean: the model answered, and the answer cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Numbers of images. They add up with ``+``; each field is a column of tables and CSV files."""

    answered: int = 0
    """There is an answer that could be read, perhaps with gaps."""
    unreadable: int = 0
    """The model answered, and the answer could not be read. Such an image is not known to be clean."""
    failed: int = 0
    """There is no answer, for example because the image is damaged or the model failed."""
    cut_short: int = 0
    """Answered, but the answer ended at the limit of its tokens; what stands before that was read."""
    unverified: int = 0
    """Answered, but flaws that should have been verified were not; they are kept as they were first told."""
    unplaced: int = 0
    """Answered with at least one flaw whose place is not known: it is listed, and is in no area."""

    @classmethod
    def of(cls, analysis: Analysis) -> Coverage:
        """The coverage of one analysis."""
        unplaced = any(not region.placed for region in analysis.regions)
        return cls(answered=1, unplaced=int(unplaced), **dict.fromkeys(analysis.gaps, 1))

    @classmethod
    def of_stored(cls, *analyses: Mapping[str, Any] | None) -> Coverage:
        """The coverage of one image from its analyses in JSON (``refiner.records``); None: there was no detector.

        If there are several, such as those before and after refinement, a gap in any of them counts once.
        """
        known = [analysis for analysis in analyses if analysis is not None]
        unplaced = any(region["box"] is None for analysis in known for region in analysis["regions"])
        gaps = [gap for gap in get_args(Gap) if any(gap in analysis.get("gaps", ()) for analysis in known)]
        return cls(answered=1, unplaced=int(unplaced), **dict.fromkeys(gaps, 1))

    @classmethod
    def of_error(cls, kind: str) -> Coverage:
        """The coverage of one image without an answer, by the name of the error's class."""
        return cls(unreadable=1) if kind in UNREADABLE else cls(failed=1)

    @classmethod
    def total(cls, parts: Iterable[Coverage]) -> Coverage:
        """The sum of several."""
        return sum(parts, cls())

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def images(self) -> int:
        """Images that were run."""
        return self.answered + self.unreadable + self.failed

    def row(self) -> dict[str, int]:
        """The columns of a table: all fields, in their order."""
        return asdict(self)

    def brief(self) -> str:
        """The coverage in a cell of a table, such as "95/100, 3 unreadable, 2 failed"; what is 0 is left out."""
        told = [
            f"{count} {name.replace('_', ' ')}" for name, count in self.row().items() if count and name != "answered"
        ]
        return ", ".join([f"{self.answered}/{self.images}", *told])

    def words(self) -> str:
        """The coverage in words, such as "95 of 100 images answered (3 unreadable, 2 failed), 4 cut short"."""
        lost = [f"{count} {name}" for name in ("unreadable", "failed") if (count := getattr(self, name))]
        without = f" ({', '.join(lost)})" if lost else ""
        gaps = {"cut short": self.cut_short, "unverified": self.unverified, "with unplaced flaws": self.unplaced}
        told = [f"{count} {name}" for name, count in gaps.items() if count]
        return ", ".join([f"{self.answered} of {self.images} images answered{without}", *told])


def joined_gaps(analyses: Iterable[Analysis]) -> tuple[Gap, ...]:
    """The gaps of an analysis that is made of several: those of any of them."""
    return tuple(dict.fromkeys(gap for analysis in analyses for gap in analysis.gaps))


COLUMNS: Final = tuple(Coverage().row())
"""Names of the columns."""
