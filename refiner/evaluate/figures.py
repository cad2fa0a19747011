"""What the tasks share: rows of numbers, columns of numbers, figures, and means with their intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.coverage import Coverage
from refiner.files import Json
from refiner.metrics.intervals import ANY, UNIT, Range, mean_interval
from refiner.records import analysis_from_dict
from refiner.types import Analysis

Columns = Mapping[str, NDArray[np.float64]]
Figures = dict[str, float | None]
"""Numbers by name: of a sample (a row) or of many samples."""

Unreadable = Literal["miss", "omit"]
"""How a sample is scored whose answer could not be read: as if nothing was found, or not at all."""


class Unscored(NamedTuple):
    """Why a record has no figures."""

    kind: str
    detail: str


class Plots(NamedTuple):
    """What the report draws, by names of columns."""

    histograms: tuple[str, ...]
    worst: str
    """The report shows the images of the samples that are worst by this column."""
    higher_is_better: bool
    scatters: tuple[tuple[str, str], ...] = ()
    bars: tuple[str, ...] = ()
    """Names of figures of the categories."""


class Task(ABC):
    """One kind of evaluation."""

    plots: ClassVar[Plots]

    @property
    @abstractmethod
    def signature(self) -> str:
        """Version and rules: all that the figures depend on besides the records."""

    @abstractmethod
    def row(self, record: Json) -> Figures | Unscored:
        """The numbers of one sample."""

    def miss(self, record: Json) -> Figures | None:
        """The numbers of a sample whose answer could not be read; None if it has none."""
        return None

    @abstractmethod
    def figures(self, columns: Columns) -> Figures:
        """The figures of all samples together."""

    def compared(self, columns: Columns, own: NDArray[np.bool_], ungrouped: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The samples that make the figures of a group, bool (samples,): its own.

        Args:
            columns: of all samples.
            own: bool (samples,), those of the group.
            ungrouped: bool (samples,), those that belong to no group.
        """
        return own

    def across(self, groups: Mapping[str, Figures]) -> Figures:
        """The figures in which each group counts alike, from those of the groups; empty if there are none."""
        return {}

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """The same by category of flaw; empty if the task knows none."""
        return {}


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the numbers that are not NaN; None if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def with_interval(name: str, values: NDArray[np.float64], within: Range = ANY) -> Figures:
    """A mean with its 95 % interval; see ``quotient``."""
    return quotient(name, values, np.ones_like(values), within)


def quotient(name: str, over: NDArray[np.float64], under: NDArray[np.float64], within: Range = UNIT) -> Figures:
    """A quotient of sums with its 95 % interval (``refiner.metrics.intervals``); all are None without samples.

    Args:
        name: of the figure; ``NAME_low`` and ``NAME_high`` are the ends, both None for one sample, or if one is not
            known.
        over, under: float (samples,); samples with NaN in one of them do not count. There is no figure if the sum of
            ``under`` is not positive.
        within: range of ``over / under`` of a sample.
    """
    known = ~np.isnan(over) & ~np.isnan(under)
    over, under = over[known], under[known]
    if not under.sum() > 0:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = mean_interval(over, under, within=within)
    if len(over) == 1 or low is None or high is None:
        low = high = None
    return {name: float(over.sum() / under.sum()), f"{name}_low": low, f"{name}_high": high}


def coverage_of(record: Json) -> Coverage:
    """The coverage of one sample: whether there is an answer, and what it lacks; of refinement, at any time."""
    if record["error"] is not None:
        return Coverage.of_error(record["error"]["kind"])
    answer = record["answer"]
    looks = [answer[when] for when in ("before", "last", "best")] if "before" in answer else [answer]
    return Coverage.of_stored(*(look["analysis"] for look in looks))


def true_analysis(record: Json) -> Analysis | None:
    """The true regions; None if they are not known."""
    truth = record["truth"]["analysis"]
    return None if truth is None else analysis_from_dict(truth)


def true_flaws(record: Json) -> Analysis | None:
    """The true regions without misalignments with the prompt; None if they are not known."""
    truth = true_analysis(record)
    return None if truth is None else truth.perceptual
