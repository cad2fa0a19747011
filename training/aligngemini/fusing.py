"""Learn the thresholds of the two branches from samples that are held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refiner.data.samples import DataSet, pairs_of
from refiner.errors import InputError
from refiner.records import derive_seed

_MOST = 200
"""Most thresholds of a branch that are tried."""
_EDGE = 1e-3


def held_rows(data: DataSet, count: int) -> list[int]:
    """At least ``count`` rows that are held out, chosen by the names of the samples; pairs stay together."""
    pairs = pairs_of(data)
    groups: dict[str, list[int]] = {}
    for row, (name, pair) in enumerate(zip(data.names, pairs, strict=True)):
        groups.setdefault(f"pair {pair}" if pair else f"name {name}", []).append(row)
    chosen: list[int] = []
    for key in sorted(groups, key=lambda key: derive_seed("held", key)):
        if len(chosen) >= count:
            break
        chosen += groups[key]
    return sorted(chosen)


def learn_thresholds(chances: NDArray[np.float64], fake: Sequence[bool]) -> tuple[float, float]:
    """The thresholds with the highest balanced accuracy if one branch above its threshold is enough.

    Args:
        chances: float (N, 2): the ``fake_probability`` of the semantic and the pixel branch.
        fake: whether each image is generated.

    Returns:
        Of equally good thresholds, those nearest to 0.5.

    Raises:
        InputError: the images are all real or all generated.
    """
    truth = np.asarray(fake, dtype=np.bool_)
    if truth.all() or not truth.any():
        raise InputError("Expected held-out samples that are real and generated, got one kind: raise held.")
    one, other = (_candidates(column) for column in chances.T)
    first, second = chances[:, :1] > one, chances[:, 1:] > other  # (N, thresholds)
    # Both stay below: counted for all pairs of thresholds at once.
    clean = [(~first[rows]).astype(np.float64).T @ (~second[rows]) / rows.sum() for rows in (~truth, truth)]
    scores = (clean[0] + 1 - clean[1]) / 2
    best = np.argwhere(scores >= scores.max() - 1e-12)
    distances = [abs(one[row] - 0.5) + abs(other[column] - 0.5) for row, column in best]
    row, column = best[int(np.argmin(distances))]
    return float(one[row]), float(other[column])


def _candidates(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """0.5 and the middles between neighbouring probabilities, inside (0, 1)."""
    values = np.unique(chances)
    if len(values) > _MOST:
        values = np.quantile(values, np.linspace(0, 1, _MOST))
    middles = (values[1:] + values[:-1]) / 2
    return np.unique(np.clip([0.5, *middles], _EDGE, 1 - _EDGE))
