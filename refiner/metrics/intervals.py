"""Intervals of one set of samples; ``metrics.ranking`` compares generators that share prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ends = tuple[float | None, float | None]
"""Of an interval; an end is None if the samples say nothing about it. An interval is never of width 0."""
Range = tuple[float, float]
"""The least and the greatest value that a sample can have."""
UNIT: Final[Range] = (0.0, 1.0)
POSITIVE: Final[Range] = (0.0, math.inf)
ANY: Final[Range] = (-math.inf, math.inf)

FEW: Final = 20
"""Fewer samples than these are few."""
_DRAWS_AT_A_TIME = 2**17
_NO_SPREAD = 1e-9
"""Relative; rounding makes samples differ by less than this."""


def few_words(count: int, what: str) -> str:
    """A warning that there are few samples, such as "Only 3 prompts: others may give quite other figures."; or ""."""
    if count >= FEW:
        return ""
    return f"Only {count} {what if count != 1 else what.removesuffix('s')}: others may give quite other figures."


def mean_interval(
    over: NDArray[np.float64],
    under: NDArray[np.float64] | None = None,
    *,
    within: Range = ANY,
    level: float = 0.95,
) -> Ends:
    """The interval of a mean, or of a quotient of two sums, which also holds for few samples.

    It is Student's, of the quotient made linear, cut at the ends of ``within``; and the exact one of Clopper and
    Pearson if all samples are 0 or 1 and count alike. If all samples agree, its ends are those that samples not seen
    yet could still move the value to: their share may be as large as that of an event that did not occur in N trials.

    Args:
        over: float (N,). A sample with 0 here and in ``under`` says nothing; without others, both ends are None.
        under: float (N,), of positive sum. None: the mean of ``over``.
        within: the range of ``over / under``. An end that is infinite is not known.
        level: how often such an interval holds the true value, in (0, 1).
    """
    from scipy.special import stdtrit

    if under is None:
        under = np.ones_like(over)
    telling = (over != 0) | (under != 0)
    over, under = over[telling], under[telling]
    count, tail = len(over), (1 - level) / 2
    if not count:
        return None, None
    if within == UNIT and np.isin(over, (0, under[0])).all() and (under == under[0]).all():
        return clopper_pearson(int((over > 0).sum()), count, level)
    value, (least, greatest) = float(over.sum() / under.sum()), within
    error = float(np.sqrt(((over - value * under) ** 2).sum() / max(count - 1, 1) / count) / under.mean())
    if count == 1 or error <= _NO_SPREAD * abs(value):
        unseen = 1 - tail ** (1 / count)
        ends = (value + unseen * (end - value) for end in within)
        low, high = (end if math.isfinite(end) else None for end in ends)
        return low, high
    half = float(stdtrit(count - 1, 1 - tail)) * error
    return max(least, value - half), min(greatest, value + half)


def bootstrap_interval(
    *columns: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]] = np.mean,
    resamples: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile interval of any statistic of many samples, from a fixed seed.

    With few samples it is too narrow; ``mean_interval`` is not.

    Args:
        columns: float (N,) each. A row is a sample, and rows are drawn with replacement. The interval of one row is its
            value.
        statistic: takes as many columns and the keyword argument ``axis``.
        resamples: number of draws of N rows.
    """
    from scipy.stats import bootstrap

    if len(columns[0]) == 1:
        value = float(statistic(*columns, axis=0))
        return value, value
    found = bootstrap(
        columns,
        statistic,
        n_resamples=resamples,
        batch=max(1, _DRAWS_AT_A_TIME // len(columns[0])),
        paired=len(columns) > 1,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def clopper_pearson(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson, 1934): the ends between which ``count`` is not too unlikely.

    Unlike a bootstrap interval, it is not empty for a count of 0 or of all, and holds for few samples.

    Args:
        count: of the samples, from 0 to ``total``.
        total: at least 1.
        level: how often such an interval holds the true share, at least.
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1 - tail, count + 1, total - count))
    return low, high
