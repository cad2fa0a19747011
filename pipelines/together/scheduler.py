"""Run several tasks so that what they ask of a model at the same time is answered by one call of it.

Each task is ordinary code in a thread of its own. Only one thread runs at any time, in the order of the tasks, until it
asks a service or ends. When all tasks wait, the service with the lowest rank answers all that ask it. Services run in
the thread of ``Scheduler.run``. So models see one thread, with its settings of torch, and equal runs do the same.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)
Value = TypeVar("Value", covariant=True)


class Service(Protocol[Item, Value]):
    """Answers requests of several tasks together."""

    @property
    def rank(self) -> int:
        """Services with a lower rank answer first; those of the same rank in the order of the tasks that ask."""
        ...

    def serve(self, items: Sequence[Item]) -> Sequence[Value]:
        """Return an answer to each request, in their order."""
        ...


class _Ended(BaseException):
    """Raised in a task that waits, when the run ends early."""


class Scheduler:
    """Runs tasks, and answers what they ask. It can be used again after a run."""

    def __init__(self) -> None:
        self._own = threading.local()

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Run tasks to their end, and return their results in order.

        If a task or a service raises an exception, the other tasks are ended where they wait, and it is raised.
        """
        running = [_Task(task, self._own) for task in tasks]
        try:
            for task in running:
                task.step()
            while waiting := [task for task in running if task.waits_for is not None]:
                _answer(waiting)
            return [task.value() for task in running]
        finally:
            for task in running:
                task.end()

    def ask(self, service: Service[Item, Value], item: Item) -> Value:
        """Ask a service from a task; outside a task, it is asked at once."""
        task: _Task[Any] | None = getattr(self._own, "task", None)
        answer: Value = service.serve([item])[0] if task is None else task.ask(service, item)
        return answer


def _answer(waiting: Sequence[_Task[Any]]) -> None:
    services = [task.waits_for for task in waiting if task.waits_for is not None]
    service = min(services, key=lambda service: service.rank)
    chosen = [task for task in waiting if task.waits_for is service]
    answers = service.serve([task.item for task in chosen])
    for task, answer in zip(chosen, answers, strict=True):
        task.item, task.waits_for = answer, None
        task.step()


class _Task(Generic[T]):
    """A task in its thread, which runs only inside ``step``."""

    def __init__(self, work: Callable[[], T], own: threading.local) -> None:
        self.waits_for: Service[Any, Any] | None = None
        self.item: Any = None
        """What the task asks; after the answer, the answer."""
        self._work, self._own = work, own
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._live,), daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let the task run until it asks or ends; raise the exception that ended it."""
        self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def value(self) -> T:
        """The result of the task, which must have ended."""
        return self._result[0]

    def ask(self, service: Service[Any, Any], item: Any) -> Any:
        """Wait in the thread of the task for the answer of a service."""
        self.waits_for, self.item = service, item
        self._back.release()
        self._wait()
        return self.item

    def end(self) -> None:
        """End the task where it waits, if it has not ended by itself."""
        self._ending = True
        self._turn.release()
        self._thread.join()

    def _wait(self) -> None:
        self._turn.acquire()
        if self._ending:
            raise _Ended

    def _live(self) -> None:
        self._own.task = self
        try:
            self._wait()
            self._result.append(self._work())
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._back.release()
