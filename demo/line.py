"""Standing in line: first come, first served, a few at a time, and no more than there is room for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from refiner.errors import BusyError

_PATIENCE = 0.5
"""Seconds after which one who waits looks whether it was called off."""


class StoppedError(Exception):
    """The user wants no more of it."""


class Line:
    """A line before a number of places.

    Args:
        places: how many may be inside at a time.
        waiting: how many may stand before them; None: any number.
    """

    def __init__(self, places: int, waiting: int | None = None) -> None:
        self.places, self.waiting = places, waiting
        self._line: list[object] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Those inside and those who wait."""
        return len(self._line)

    @contextmanager
    def place(self, stopped: threading.Event, tell: Callable[[int], None] | None = None) -> Iterator[None]:
        """Wait for a place, and hold it.

        Args:
            stopped: once it is set, nobody waits any longer.
            tell: gets how many are ahead in the line, as often as that changes; never 0.

        Raises:
            BusyError: there is no room to wait.
            StoppedError: ``stopped`` was set before a place came free.
        """
        ticket = object()
        with self._changed:
            if self.waiting is not None and len(self._line) >= self.places + self.waiting:
                raise BusyError(
                    f"Expected room for another job, but {len(self._line)} are running or waiting: "
                    "try again in a few minutes."
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
