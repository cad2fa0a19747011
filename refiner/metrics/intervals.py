"""Bootstrap intervals of one set of samples; ``metrics.ranking`` compares generators that share prompts."""

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
