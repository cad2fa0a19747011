"""Jobs of users: each runs in its own thread, reports its progress as events, and can be stopped at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from refiner.demo.line import Line, StoppedError

Tell = Callable[[Any], None]
"""Called with each event of a job."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The job waits for earlier jobs."""

    ahead: int
    """Number of earlier jobs."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Models are being loaded."""


@dataclass(eq=False)
class Job:
    """A job of one user."""

    session: str
    """Id of the user's browser tab or client."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise ``StoppedError`` if the user has stopped the job."""
        if self.stopped.is_set():
            raise StoppedError


@dataclass
class _End:
    """The last event of a job."""

    error: BaseException | None = None


class Desk:
    """Runs a few jobs at a time, and gives them the models in turn.

    Args:
        running: most jobs that run at a time.
        waiting: most jobs that may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._desk = Line(running, waiting)
        self._models = Line(1)

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Hold all models exclusively, because schedulers and caches of a pipeline serve one caller at a time.

        Raises:
            StoppedError: the job was stopped before its turn.
        """
        with self._models.place(job.stopped):
            yield

    def stop(self, session: str) -> int:
        """Stop all jobs of a user.

        Returns:
            The number of stopped jobs.
        """
        with self._lock:
            jobs = [job for job in self._jobs if job.session == session]
        for job in jobs:
            job.stopped.set()
        return len(jobs)

    def run(self, session: str, work: Callable[[Job, Tell], None]) -> Iterator[Any]:
        """Run a job in its own thread and yield its events.

        Closing the iterator stops the job. A job that is stopped while it waits yields no further event.

        Args:
            session: id of the user's browser tab or client.
            work: called with the job and a function that takes events.

        Raises:
            BusyError: the queue is full.
            BaseException: whatever ``work`` raises.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job = Job(session)
        with self._lock:
            self._jobs.add(job)
        threading.Thread(target=self._work, args=(job, work, told.put), name="refiner-demo-job", daemon=True).start()
        try:
            while not isinstance(event := told.get(), _End):
                yield event
            if event.error is not None:
                raise event.error
        finally:
            job.stopped.set()

    def _work(self, job: Job, work: Callable[[Job, Tell], None], put: Tell) -> None:
        end = _End()
        try:
            with self._desk.place(job.stopped, lambda ahead: put(Waiting(ahead=ahead))):
                work(job, put)
        except StoppedError:
            pass
        except BaseException as error:
            end.error = error
        finally:
            with self._lock:
                self._jobs.discard(job)
            put(end)
