"""Ctrl-C and SIGTERM end a long run after the images under way; a second signal ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from refiner.cli.options import DONE, INTERRUPTED, TERMINATED
from refiner.cli.view import Terminal

if TYPE_CHECKING:
    from refiner.evaluate.engines import Stop

_CODES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


class Signalled:
    """The exit code of the signal that came; 0 if none came."""

    code: int = DONE


@contextmanager
def ended_by_signals(stop: Stop, terminal: Terminal) -> Iterator[Signalled]:
    """Set ``stop`` on the first signal. From then on, signals do what they do by default: they end the process.

    Only the main thread can do this; in other threads, nothing changes.
    """
    told = Signalled()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def handle(number: int, _frame: object) -> None:
        told.code = _CODES[signal.Signals(number)]
        stop.set("interrupted")
        for each in _CODES:
            signal.signal(each, signal.SIG_DFL)
        terminal.complain("finishing the images under way; a second signal ends the run at once.")

    earlier = {each: signal.signal(each, handle) for each in _CODES}
    try:
        yield told
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)
