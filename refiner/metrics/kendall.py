"""How two rankings of the same generators agree: Kendall's tau-b with bootstrap intervals over prompts.

AnomReason (arXiv 2510.10231) compares the rankings of its agent and of its tuned model by eye. Tau-b (Kendall, "The
treatment of ties in ranking problems", Biometrika 1945) counts the pairs of generators that both rankings put in the
same order, and those that they put in opposite orders::

    tau = (same - opposite) / sqrt(pairs untied in the one * pairs untied in the other)

1 means the same order, -1 the reversed one. If a ranking ties all generators, or there is only one, tau is undefined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.metrics.ranking import Ranking

Array = NDArray[np.float64]

VERSION = 1
"""Increases when the same input can give other numbers."""
SIGNATURE = f"agreement|version={VERSION}|kendall_tau_b|interval=paired_percentile_of_the_defined_draws"
_DECIMALS = 12
"""Values that are equal after rounding are tied, because equal sums can differ in the last bit."""


class Agreement(NamedTuple):
    """Kendall's tau-b of two rankings, with the percentile interval of its bootstrap draws."""

    value: float | None
    """In [-1, 1]; None if it is undefined."""
    low: float | None
    """Of the interval; None if the value, or every draw, is undefined."""
    high: float | None
    undefined: float
    """Share of the draws in which it is undefined; the interval is that of the others."""


def kendall_tau(one: Array, other: Array) -> Array:
    """Kendall's tau-b of values (..., generators), for each row of the leading axes; NaN if it is undefined."""
    first, second = np.triu_indices(one.shape[-1], k=1)
    signs = [np.sign(np.round(each[..., first] - each[..., second], _DECIMALS)) for each in (one, other)]
    untied = [np.abs(each).sum(axis=-1) for each in signs]
    pairs = np.sqrt(untied[0] * untied[1])
    agreeing = (signs[0] * signs[1]).sum(axis=-1)
    tau: Array = np.divide(agreeing, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)
    return tau


def compare_rankings(one: Ranking, other: Ranking) -> dict[str, Agreement]:
    """The agreement of two rankings, for each measure that both have.

    The draws are paired: each has the same prompts for all generators in both rankings.

    Raises:
        ConfigError: they are of other generators, prompts or settings of the bootstrap.
    """
    names = sorted(row.name for row in one.rows)
    same = (one.digest, one.bootstrap) == (other.digest, other.bootstrap)
    if names != sorted(row.name for row in other.rows) or not same:
        raise ConfigError(
            "Expected two rankings of the same generators on the same prompts, got others: rank the images that both "
            "have, with the same settings."
        )
    shared = [name for name in one.draws if name in other.draws]
    return {
        name: _agreement(_ordered(one, name, names), _ordered(other, name, names), one.bootstrap.level)
        for name in shared
    }


def _ordered(ranking: Ranking, measure: str, names: list[str]) -> tuple[Array, Array]:
    """Values (generators) and draws (resamples, generators) of a measure, generators in the order of ``names``."""
    rows = {row.name: at for at, row in enumerate(ranking.rows)}
    order = [rows[name] for name in names]
    values = np.array([ranking.rows[at].estimates[measure].value for at in order])
    return values, ranking.draws[measure][:, order]


def _agreement(one: tuple[Array, Array], other: tuple[Array, Array], level: float) -> Agreement:
    value, draws = float(kendall_tau(one[0], other[0])), kendall_tau(one[1], other[1])
    known = draws[~np.isnan(draws)]
    undefined = 1 - len(known) / len(draws)
    if np.isnan(value) or not len(known):
        return Agreement(None if np.isnan(value) else value, None, None, undefined)
    tail = (1 - level) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return Agreement(value, float(low), float(high), undefined)
