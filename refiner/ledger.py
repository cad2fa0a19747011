"""The costs of chat models: calls, tokens, seconds, and their price by a table that the user gives."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from refiner.errors import InputError
from refiner.files import Json
from refiner.reading import read_text, reason_of

_MAX_BYTES = 1_000_000
"""Largest table of prices that is read."""
_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The costs of a chat model since it was loaded, or between two moments."""

    calls: int = 0
    """Calls of the model, including failed ones."""
    retries: int = 0
    """Those of the calls that repeat a failed one."""
    cached: int = 0
    """Answers from the cache."""
    failed: int = 0
    """Requests without an answer after all attempts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Answers whose tokens the server did not count; they are in neither number."""
    seconds: float = 0.0
    """Sum of the durations of all calls; parallel calls are counted separately."""
    pictures: int = 0
    """Images scaled and encoded."""
    images: int = 0
    """Images that the model made."""

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value - getattr(other, name) for name, value in vars(self).items()})

    def words(self) -> str:
        """The costs in words, such as "12 calls (2 repeated), 3 from the cache, 9,000 + 700 tokens, 31 s"."""
        repeated = f" ({self.retries} repeated)" if self.retries else ""
        parts = [f"{self.calls} call{'' if self.calls == 1 else 's'}{repeated}"]
        parts += [f"{self.failed} without an answer"] if self.failed else []
        parts += [f"{self.cached} from the cache"] if self.cached else []
        parts += [f"{self.images} image{'' if self.images == 1 else 's'} made"] if self.images else []
        parts += [f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"]
        parts += [f"tokens of {self.uncounted} not counted by the server"] if self.uncounted else []
        return ", ".join([*parts, f"{self.seconds:.3g} s"])


@runtime_checkable
class Paying(Protocol):
    """A part that asks chat models, and counts what that costs."""

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs since construction, by the name of the model."""
        ...


def ledgers_of(parts: Iterable[object]) -> dict[str, Ledger]:
    """The costs of several parts, by model. A part that is in ``parts`` twice counts once."""
    found: dict[str, Ledger] = {}
    for part in {id(part): part for part in parts}.values():
        if isinstance(part, Paying):
            found = added(found, part.ledgers())
    return found


def added(first: Mapping[str, Ledger], second: Mapping[str, Ledger]) -> dict[str, Ledger]:
    """The sum of the costs of each model."""
    return {name: first.get(name, Ledger()) + second.get(name, Ledger()) for name in {**first, **second}}


def since(before: Mapping[str, Ledger], now: Mapping[str, Ledger]) -> dict[str, Ledger]:
    """The costs of each model that were added; models without any are left out."""
    spent = {name: ledger - before.get(name, Ledger()) for name, ledger in now.items()}
    return {name: ledger for name, ledger in spent.items() if ledger != Ledger()}


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model costs. A model that is billed per image alone has no prices of tokens."""

    input: float | None = None
    """Per million tokens, as ``output``; both are given, or none."""
    output: float | None = None
    image: float = 0.0
    """Per image that the model made."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A table of prices."""

    models: Mapping[str, Price]
    """Name of the model, as in its id -> price."""
    currency: str = "USD"

    @classmethod
    def read(cls, path: str | Path) -> Prices:
        """Read a table from a TOML or JSON file, in UTF-8 or UTF-16.

        ::

            currency = "USD"

            ["gpt-5-mini"]
            input = 0.25
            output = 2.0

            ["flux-kontext-pro"]
            image = 0.04

        Raises:
            InputError: the file cannot be read, or is no such table.
        """
        file = Path(path).expanduser()
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
            text = read_text(file)
            table = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
            if not isinstance(table, dict):
                raise ValueError("it is no table")
            currency = table.pop("currency", "USD")
            if not isinstance(currency, str) or not currency.isprintable() or not 1 <= len(currency) <= 12:
                raise ValueError(f"the currency {currency!r:.40} is no short text")
            return cls(models={name: _price(name, entry) for name, entry in table.items()}, currency=currency)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"The table of prices {str(path)!r} cannot be read ({reason_of(error)}): write TOML or JSON with the "
                "prices input and output, per million tokens, or image, per image, of each model."
            ) from error

    def cost(self, model: str, ledger: Ledger) -> float | None:
        """The price of what a model did; None if the model or some of its tokens are not known."""
        price = self.models.get(model)
        if price is None:
            return None
        images = price.image * ledger.images
        if price.input is None or price.output is None:
            return images
        if ledger.uncounted:
            return None
        return images + (price.input * ledger.prompt_tokens + price.output * ledger.completion_tokens) / _MILLION


def _price(name: str, entry: Any) -> Price:
    if not isinstance(entry, dict) or {*entry} - {"image"} not in ({"input", "output"}, set()) or not entry:
        raise ValueError(f"expected input and output, or image, for {name!r:.80}, got {entry!r:.80}")
    for value in entry.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise ValueError(f"the price {value!r:.40} of {name!r:.80} is no number of at least 0")
    return Price(**{side: float(value) for side, value in entry.items()})


def bill(ledgers: Mapping[str, Ledger], prices: Prices | None = None) -> Json:
    """The costs as JSON: for each model its ledger, and with prices ``cost`` (null if not known) and ``currency``."""
    rows: Json = {name: {**vars(ledger), "seconds": round(ledger.seconds, 3)} for name, ledger in ledgers.items()}
    if prices is not None:
        for name, row in rows.items():
            row |= {"cost": prices.cost(name, ledgers[name]), "currency": prices.currency}
    return rows


def bill_lines(ledgers: Mapping[str, Ledger], prices: Prices | None = None) -> list[str]:
    """The costs in words, one line for each model, and one for the sum of several prices."""
    costs = {name: None if prices is None else prices.cost(name, ledger) for name, ledger in ledgers.items()}
    lines = []
    for name, ledger in ledgers.items():
        told = "" if prices is None else f", {_money(costs[name], prices)}"
        lines.append(f"{name}: {ledger.words()}{told}")
    if prices is not None and len(lines) > 1:
        known = [cost for cost in costs.values() if cost is not None]
        lines.append(f"all models: {_money(sum(known) if len(known) == len(lines) else None, prices)}")
    return lines


def ledgers_from(document: Mapping[str, Any]) -> dict[str, Ledger]:
    """Read what ``bill`` wrote.

    Raises:
        InputError: it is something else.
    """
    names = [field.name for field in fields(Ledger)]
    try:
        return {
            model: Ledger(**{name: row[name] for name in names if name in row or name != "images"})  # which is new
            for model, row in document.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The stored costs cannot be read ({error!r}): delete their file.") from error


def _money(cost: float | None, prices: Prices) -> str:
    return "price not known" if cost is None else f"{cost:.4g} {prices.currency}"
