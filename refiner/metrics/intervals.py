"""Bootstrap intervals of one set of samples; generators that share prompts are compared by ``metrics.ranking``."""

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
        columns: float (N,) each; a sample is a row, and rows are drawn with replacement. Of one row the interval is
            its value.
        statistic: of as many columns, along its keyword argument ``axis``.
        resamples: how often N rows are drawn.
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
