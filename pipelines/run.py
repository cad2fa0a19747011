"""A running refinement: its attempts one by one, and its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from refiner.errors import ConfigError
from refiner.types import Attempt, RefinementResult


class RefinementRun(Iterator[Attempt]):
    """A running refinement. Iterating over it yields the attempts; each attempt is made when it is requested.

    The iteration can be left and continued later. If the run is dropped or an exception ends it, the pipeline is
    unchanged. Only ``stop`` is safe from other threads.

    Args:
        attempts: iterator that makes the attempts.
        so_far: returns the current result, with the stop reason "interrupted" until ``attempts`` has ended by itself.
        flag: once it is set, ``attempts`` ends before the next attempt; an unfinished image is dropped.
        blame: records an exception on the last attempt, and returns this attempt.
    """

    def __init__(
        self,
        attempts: Iterator[Attempt],
        so_far: Callable[[], RefinementResult],
        flag: threading.Event,
        blame: Callable[[Exception], Attempt],
    ) -> None:
        self.attempts: list[Attempt] = []
        """The attempts that were made so far."""
        self._next, self._so_far, self._flag, self._blame = attempts, so_far, flag, blame

    def __next__(self) -> Attempt:
        self.attempts.append(next(self._next))
        return self.attempts[-1]

    def stop(self) -> None:
        """End the run with the best image so far; safe from any thread."""
        self._flag.set()

    def fail(self, error: Exception) -> None:
        """Record an exception of the caller on the last attempt, and end the run with the best image so far."""
        self.attempts[-1] = self._blame(error)
        self.stop()

    @property
    def so_far(self) -> RefinementResult:
        """The current result, with the stop reason "interrupted" until the run is over.

        Raises:
            ConfigError: there is no attempt yet.
        """
        if not self.attempts:
            raise ConfigError("The run has no attempt yet: iterate over it first, or read its result.")
        return self._so_far()

    @property
    def result(self) -> RefinementResult:
        """The final result; reading it makes all remaining attempts.

        If an exception ended the run, the result holds the attempts before it; without any, this is a ConfigError.
        """
        for _ in self:
            pass
        return self.so_far
