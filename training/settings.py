"""Settings of a training. They check their own values. A JSON document can change them."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from refiner.errors import ConfigError

S = TypeVar("S")
Bounds = tuple[float | None, float | None]
_AT_LEAST_1 = {
    *("steps", "batch", "accumulate", "report_every", "save_every", "pool", "shards", "first_shards", "shard_every"),
    *("shard_size", "natural_shards", "natural_shard_size", "naturals", "read"),
}
_AT_LEAST_0 = {
    *("seed", "warmup", "weight_decay", "tower_steps", "verdict_steps", "reading", "natural_from", "held", "outside"),
    *("flaw_weight", "word_weight"),
}


@dataclass(frozen=True, kw_only=True)
class CheckedSettings:
    """Settings that check their fields, which the settings of every recipe inherit."""

    def __post_init__(self) -> None:
        """Check the fields by their names.

        Raises:
            ConfigError: a value is out of its range.
        """
        present = {field.name for field in dataclasses.fields(self)}
        within(self, **dict.fromkeys(present & _AT_LEAST_1, (1, None)))
        within(self, **dict.fromkeys(present & _AT_LEAST_0, (0, None)))
        for name in ("learning_rate", "rate", "tower_rate"):
            if name in present and not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"The setting {name} must be above 0, got {getattr(self, name)!r}: change it.")
        within(self, **dict.fromkeys(present & {"ema", "caption_dropout", "practice"}, (0, 1)))


@dataclass(frozen=True, kw_only=True)
class LoopSettings(CheckedSettings):
    """Settings of the training loop."""

    accumulate: int = 1  # Micro-batches of each process in a step. The gradient is their mean.
    report_every: int = 100  # steps between two lines of the log
    save_every: int = 500  # steps between two checkpoints


def within(settings: Any, **bounds: Bounds) -> None:
    """Check that fields are within bounds. The bounds are included; None means no bound.

    Raises:
        ConfigError: a field is out of its bounds.
    """
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        if not ((low is None or value >= low) and (high is None or value <= high)):
            wanted = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(f"The setting {name} must be {wanted}, got {value!r}: change it.")


def check_schedule(name: str) -> None:
    """Raise ConfigError if the learning rate has no such schedule."""
    if name not in ("cosine", "linear"):
        raise ConfigError(f"Expected the schedule cosine or linear, got {name!r}: change it.")


def changed(settings: S, document: object, where: str = "") -> S:
    """Copy settings and change the fields that a JSON document names.

    Args:
        settings: a frozen dataclass. Its fields may be dataclasses too.
        document: a JSON object of field names and values. A field that is a dataclass is an object in it.
        where: prefix of field names in messages.

    Raises:
        ConfigError: a field is unknown, or its value has a wrong type or is out of range. The message names the field.
    """
    if not isinstance(document, Mapping):
        place = f"for {where.rstrip('.')}" if where else "as settings"
        raise ConfigError(f"Expected a JSON object {place}, got {document!r}: write field names and values.")
    kinds = typing.get_type_hints(type(settings))
    fields = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name not in fields:
            raise ConfigError(f"There is no setting {where}{name}: the fields are {', '.join(fields)}.")
        present = getattr(settings, name)
        if dataclasses.is_dataclass(present):
            values[name] = changed(present, value, f"{where}{name}.")
        else:
            values[name] = _read(value, kinds[name], f"{where}{name}")
    try:
        return dataclasses.replace(settings, **values)  # type: ignore[type-var]
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"The settings cannot be used together ({error}): change them.") from error


def _read(value: object, kind: Any, name: str) -> Any:
    if typing.get_origin(kind) is tuple:
        inner, *_ = typing.get_args(kind)
        if isinstance(value, list):
            return tuple(_read(each, inner, name) for each in value)
        raise ConfigError(f"Expected a list for {name}, got {value!r}: write it in square brackets.")
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ConfigError(f"Expected {words.get(kind, kind.__name__)} for {name}, got {value!r}: change it.")
    return value
