"""What tasks have in common: rows of numbers of samples, columns of many, figures, and means with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.files import Json
from refiner.metrics.intervals import bootstrap_interval
from refiner.records import analysis_from_dict
from refiner.types import Analysis

Columns = Mapping[str, NDArray[np.float64]]
Row = dict[str, float | None]
Figures = dict[str, float | None]

Unreadable = Literal["miss", "omit"]
"""What a sample counts as whose answer could not be read: as one where nothing was found, or not at all."""
UNREADABLE: Final = frozenset({"UnreadableOutputError", "BadAnswerError"})
"""Kinds of errors that say so: the detector did answer, and what it said is of no use."""


class Unscored(NamedTuple):
    """Why a record has no figures."""

    kind: str
    detail: str


class Plots(NamedTuple):
    """What the report draws; by columns."""

    histograms: tuple[str, ...]
    worst: str
    """The samples with the worst of these are shown as pictures."""
    higher_is_better: bool
    scatters: tuple[tuple[str, str], ...] = ()
    bars: tuple[str, ...] = ()
    """By figures of the categories."""


class Task(Protocol):
    """One kind of evaluation."""

    plots: Plots

    @property
    def signature(self) -> str:
        """All that the figures depend on beside the records."""
        ...

    def row(self, record: Json) -> Row | Unscored:
        """The figures of one sample."""
        ...

    def miss(self, record: Json) -> Row | None:
        """The figures of a sample whose answer could not be read; None where it has none."""
        ...

    def figures(self, columns: Columns) -> Figures:
        """The figures of many samples together."""
        ...

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """The same by category of flaw; empty where the task knows none."""
        ...


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the numbers that are there; None where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The 95 % bootstrap interval of the mean, from a fixed seed; None where there are fewer than two numbers."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None, None
    return bootstrap_interval(known)


def with_interval(name: str, values: NDArray[np.float64]) -> Figures:
    """A mean with its interval."""
    low, high = interval(values)
    return {name: mean(values), f"{name}_low": low, f"{name}_high": high}


def found_analysis(record: Json) -> Analysis:
    """What the detector said."""
    return analysis_from_dict(record["answer"]["analysis"])


def true_analysis(record: Json) -> Analysis | None:
    """What is true; None where that is not known."""
    truth = record["truth"]["analysis"]
    return None if truth is None else analysis_from_dict(truth)
