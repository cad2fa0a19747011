"""The range and the ticks of an axis: round numbers around the values, also if there is one value or all are equal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

_STEPS: Final = (1, 2, 5)
"""Distances of ticks, times a power of ten."""
_WANTED: Final = 3
"""Most distances between ticks for the values themselves; rounding the ends may add one at each end."""
_TINY: Final = 1e-9
"""Values whose distance is a smaller share of their size count as equal."""


class Axis(NamedTuple):
    """A range with ticks."""

    low: float
    high: float
    """Above ``low``."""
    ticks: tuple[tuple[float, str], ...]
    """Value and label, at least two, ascending; the first is at ``low`` and the last at ``high``. Labels differ."""

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at ``low`` to 1 at ``high``."""
        return (value - self.low) / (self.high - self.low)


def axis(values: Iterable[float], *, from_zero: bool = False) -> Axis:
    """An axis that holds all values.

    Args:
        values: finite; at least one.
        from_zero: whether it holds 0, too.
    """
    known = [*values, *([0.0] if from_zero else [])]
    low, high = _apart(min(known), max(known))
    exponent = math.floor(math.log10(high / _WANTED - low / _WANTED))
    distance, exponent = next(
        (each, power)
        for power in (exponent, exponent + 1)
        for each in _STEPS
        if _WANTED * _times_power(each, power) >= (high - low) * (1 - _TINY)
    )
    step = _times_power(distance, exponent)
    first, last = math.floor(low / step + _TINY), math.ceil(high / step - _TINY)
    numbers = [_times_power(number * distance, exponent) for number in range(first, last + 1)]
    largest = max(abs(numbers[0]), abs(numbers[-1]))
    labels = [_label(number, exponent, largest) for number in numbers]
    return Axis(numbers[0], numbers[-1], tuple(zip(numbers, labels, strict=True)))


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends of the values; of equal values, a tenth of their size around them, within 0 and 1 if they are shares."""
    size = max(abs(low), abs(high))
    if high - low > _TINY * size:
        return low, high
    if size == 0:
        return 0.0, 1.0
    wide = low - size / 10, high + size / 10
    return (wide[0], min(1.0, wide[1])) if low >= 0 and high <= 1 else wide


def _times_power(number: int, exponent: int) -> float:
    """``number`` times a power of ten, as the float nearest to it."""
    return float(f"{number}e{exponent}")


def _label(number: float, exponent: int, largest: float) -> str:
    """The number with the digits that tell ticks apart; very large and very small ones with an exponent."""
    power = math.floor(math.log10(largest))
    if -4 <= power < 6:
        return f"{number:.{max(0, -exponent)}f}"
    return f"{number:.{max(1, power - exponent + 1)}g}"
