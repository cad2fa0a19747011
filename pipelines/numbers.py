"""Numbers of numpy become numbers of Python, so that settings can be compared, hashed and stored as JSON."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from refiner.errors import ConfigError


def plain(value: Any) -> Any:
    """Return a scalar of numpy as the Python number that it equals; any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Apply ``plain`` to each value."""
    return {name: plain(value) for name, value in values.items()}


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a whole or broken number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole_numbers(name: str, value: int | Iterable[int]) -> int | list[int]:
    """Return one whole number or several as int, also if they are numpy's or those of a tensor.

    Raises:
        ConfigError: a value is not a whole number.
    """
    try:
        if np.ndim(value) == 0:  # type: ignore[arg-type]
            return _index(value)
        return [_index(one) for one in value]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} must be a whole number, or a list of whole numbers, got {value!r}: pass integers."
        ) from error


def _index(value: Any) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError("a truth value")
    return operator.index(value)
