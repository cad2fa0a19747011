"""Agreement of annotators beyond chance: Cohen's kappa (1960) of two of them, Fleiss' kappa (1971) of several.

Both are (p - q) / (1 - q): p is the share of agreeing pairs, and q the share that would be expected if each answer were
drawn at random, by the annotator's own frequencies (Cohen) or by those of all annotators together (Fleiss). If all
answers are the same, q is 1 and kappa is not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_RESAMPLES: Final = 1000
_MOST_UNDEFINED: Final = 0.05
"""Share of resamples without a kappa; if there are more, there is no interval."""

Counts = NDArray[np.int64]
Measure = Callable[[Counts], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""From how often each of P patterns of answers occurs in R samples, (R, P), to kappa (NaN: undefined) and agreement."""


class Kappa(NamedTuple):
    """Agreement of annotators about the items that all of them judged."""

    value: float | None
    """In [-1, 1]; 1 is full agreement, 0 is chance; None if it is not defined."""
    low: float | None
    high: float | None
    """The 95 % bootstrap interval over items, from a fixed seed; None if it is not defined or of width 0."""
    items: int
    agreement: float | None
    """Share of agreeing pairs of answers, in [0, 1]; None without items."""
    undefined: str = ""
    """Why there is no value; "" if there is one."""


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Kappa:
    """Cohen's kappa of two annotators, without weights.

    Args:
        first, second: the answers to the same items, in the same order.
    """
    kinds = {answer: number for number, answer in enumerate(dict.fromkeys((*first, *second)))}
    table = np.zeros((len(kinds), len(kinds)), dtype=np.int64)
    for one, other in zip(first, second, strict=True):
        table[kinds[one], kinds[other]] += 1
    return _kappa(table.ravel(), lambda drawn: _cohen(drawn.reshape(-1, *table.shape)), "no item was judged by both")


def fleiss_kappa(counts: Counts) -> Kappa:
    """Fleiss' kappa of a number of annotators.

    Args:
        counts: whole numbers (N, K): how many annotators gave each of K answers to each of N items. Each row has the
            same sum, at least 2.

    Raises:
        ValueError: it has not.
    """
    if len(counts) and (len(set(counts.sum(axis=1).tolist())) != 1 or counts[0].sum() < 2):
        raise ValueError("Each item needs the same number of answers, at least two.")
    patterns, times = np.unique(counts, axis=0, return_counts=True) if len(counts) else (counts, np.zeros(0, np.int64))
    return _kappa(times.astype(np.int64), lambda drawn: _fleiss(patterns, drawn), "no item was judged by all")


def _kappa(times: Counts, measure: Measure, no_items: str) -> Kappa:
    """Kappa and interval of items whose patterns of answers occur ``times``, (P,)."""
    items = int(times.sum())
    if not items:
        return Kappa(None, None, None, 0, None, no_items)
    values, agreements = measure(times[None])
    agreement = float(agreements[0])
    if np.isnan(values[0]):
        return Kappa(None, None, None, items, agreement, "all answers are the same")
    drawn = np.random.default_rng(0).multinomial(items, times / items, size=_RESAMPLES)
    found = measure(drawn)[0]
    known = found[~np.isnan(found)]
    if items < 2 or len(known) < (1 - _MOST_UNDEFINED) * _RESAMPLES:
        return Kappa(float(values[0]), None, None, items, agreement)
    low, high = np.percentile(known, (2.5, 97.5)).tolist()
    if low == high:
        low = high = None
    return Kappa(float(values[0]), low, high, items, agreement)


def _cohen(tables: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kappa and agreement of each of R tables (R, K, K) of pairs of answers."""
    items = tables.sum(axis=(1, 2))
    agreeing = np.trace(tables, axis1=1, axis2=2)
    chance = (tables.sum(axis=2) * tables.sum(axis=1)).sum(axis=1)
    left = (items**2 - chance).astype(np.float64)
    value = np.full(len(tables), np.nan)
    return np.divide(agreeing * items - chance, left, out=value, where=left > 0), agreeing / items


def _fleiss(patterns: Counts, times: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kappa and agreement of each of R sets of items, given how often (R, P) each of P patterns (P, K) occurs in it."""
    annotators = int(patterns[0].sum())
    pairs = times @ (patterns * (patterns - 1)).sum(axis=1)
    items = times.sum(axis=1)
    agreement = pairs / (items * annotators * (annotators - 1))
    given = times @ patterns
    answers = items * annotators
    expected = ((given / answers[:, None]) ** 2).sum(axis=1)
    differ = given.max(axis=1) < answers
    value = np.full(len(times), np.nan)
    return np.divide(agreement - expected, 1 - expected, out=value, where=differ), agreement
