"""A bounded first-in-first-out queue for places: a few callers run at a time, the others wait in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from refiner.errors import BusyError

_PATIENCE = 0.5
"""Seconds between two checks of a waiting caller whether it was stopped."""


class StoppedError(BaseException):
    """The user stopped the job."""


class Line:
    """A queue for a number of places.

    Args:
        places: how many callers may hold a place at a time.
        waiting: how many callers may wait; None: any number.
    """

    def __init__(self, places: int, waiting: int | None = None) -> None:
        self.places, self.waiting = places, waiting
        self._line: list[object] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Number of callers that hold a place or wait."""
        return len(self._line)

    @contextmanager
    def place(self, stopped: threading.Event, tell: Callable[[int], None] | None = None) -> Iterator[None]:
        """Wait for a place, and hold it.

        Args:
            stopped: ends the wait when it is set.
            tell: called with the number of callers ahead whenever it changes; at least 1.

        Raises:
            BusyError: the queue is full.
            StoppedError: ``stopped`` was set before a place was free.
        """
        ticket = object()
        with self._changed:
            if self.waiting is not None and len(self._line) >= self.places + self.waiting:
                raise BusyError(
                    f"The server is busy, {len(self._line)} jobs are running or waiting: try again in a few minutes."
                )
            self._line.append(ticket)
        try:
            self._wait(ticket, stopped, tell)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: object, stopped: threading.Event, tell: Callable[[int], None] | None) -> None:
        told = 0
        while True:
            with self._changed:
                ahead = self._line.index(ticket) - self.places + 1
                if stopped.is_set():
                    raise StoppedError
                if ahead <= 0:
                    return
                if ahead == told:
                    self._changed.wait(_PATIENCE)
                    continue
            told = ahead
            if tell is not None:
                tell(ahead)
