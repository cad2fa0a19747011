"""One refinement under way: its attempts one by one, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from refiner.errors import ConfigError
from refiner.types import Attempt, RefinementResult


class Flag(Protocol):
    """Ends a run once it is set; such as ``threading.Event``."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


class RefinementRun(Iterator[Attempt]):
    """A refinement under way. Iterating over it gives its attempts, each made when it is asked for.

    The iteration may be left and continued later. A run that is dropped, or that an exception ends, leaves the
    pipeline as it was. All but ``stop`` belongs to one thread.

    Args:
        attempts: makes the attempts.
        so_far: what was made so far, with the stop reason "interrupted" until ``attempts`` has ended by itself.
        flag: ends ``attempts`` before the next one; what is being painted then is left out.
    """

    def __init__(self, attempts: Iterator[Attempt], so_far: Callable[[], RefinementResult], flag: Flag) -> None:
        self.attempts: list[Attempt] = []
        """Those that were made so far."""
        self._next, self._so_far, self._flag = attempts, so_far, flag

    def __next__(self) -> Attempt:
        self.attempts.append(next(self._next))
        return self.attempts[-1]

    def stop(self) -> None:
        """End the run with the best so far; safe from any thread."""
        self._flag.set()

    @property
    def so_far(self) -> RefinementResult:
        """The result as it is now, with the stop reason "interrupted" while the run is not over.

        Raises:
            ConfigError: there is no attempt yet.
        """
        if not self.attempts:
            raise ConfigError("The run has no attempt yet, so there is no result: iterate over it, or read its result.")
        return self._so_far()

    @property
    def result(self) -> RefinementResult:
        """The result, after all attempts that are left. A run that an exception ended has what was made before it.

        Raises:
            ConfigError: an exception ended the run before its first attempt.
        """
        for _ in self:
            pass
        return self.so_far
