"""Intervals of one set of samples; ``metrics.ranking`` compares generators that share prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_A_TIME = 2**17


def bootstrap_interval(
    *columns: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]] = np.mean,
    resamples: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic, from a fixed seed.

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
