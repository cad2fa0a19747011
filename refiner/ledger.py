"""The costs of chat models: calls, tokens, seconds, and their price by a table that the user gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The costs of a chat model since it was loaded."""

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

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value - getattr(other, name) for name, value in vars(self).items()})
