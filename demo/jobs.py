"""Jobs of users: each runs in a thread of its own, tells what happens as it happens, and can be stopped at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from refiner.demo.line import Line, StoppedError

Tell = Callable[[Any], None]
"""Gets what happens in a job, as it happens."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Others are served first."""

    ahead: int


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Models are being loaded."""


@dataclass(eq=False)
class Job:
    """What a user asked for."""

    session: str
    """Of the user's browser tab or client."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise ``StoppedError`` once the user wants no more of it."""
        if self.stopped.is_set():
            raise StoppedError


class _End:
    """Nothing follows."""


@dataclass
class _Failed:
    error: BaseException


class Desk:
    """Takes jobs in, runs a few at a time, and lets them take turns at the models.

    Args:
        running: jobs at a time.
        waiting: jobs that may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._desk = Line(running, waiting)
        self._models = Line(1)

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Have the models for oneself: schedulers and caches of a pipeline serve one caller at a time.

        Raises:
            StoppedError: the job was stopped before its turn came.
        """
        with self._models.place(job.stopped):
            yield

    def stop(self, session: str) -> int:
        """Stop all jobs of a user; gives their number."""
        with self._lock:
            jobs = [job for job in self._jobs if job.session == session]
        for job in jobs:
            job.stopped.set()
        return len(jobs)

    def run(self, session: str, work: Callable[[Job, Tell], None]) -> Iterator[Any]:
        """Do the work in a thread of its own and yield what it tells; who stops listening stops the job.

        Where the job is stopped while it waits, nothing more is yielded.

        Raises:
            BusyError: there is no room for another job.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job = Job(session)
        with self._lock:
            self._jobs.add(job)
        threading.Thread(target=self._work, args=(job, work, told.put), name="refiner-demo-job", daemon=True).start()
        try:
            while not isinstance(event := told.get(), _End):
                if isinstance(event, _Failed):
                    raise event.error
                yield event
        finally:
            job.stopped.set()

    def _work(self, job: Job, work: Callable[[Job, Tell], None], put: Tell) -> None:
        try:
            with self._desk.place(job.stopped, lambda ahead: put(Waiting(ahead=ahead))):
                work(job, put)
        except StoppedError:
            pass
        except BaseException as error:
            put(_Failed(error))
        finally:
            with self._lock:
                self._jobs.discard(job)
            put(_End())
