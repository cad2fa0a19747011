"""Engines for systems that wait for a server, and runs that end before their last sample without losing what is done.

An engine makes the records of samples (see ``refiner.evaluate.harness.Engine``). ``several`` works on many samples at
the same time. ``until`` ends an engine when a ``Stop`` is set, and ``patient`` sets it after failures in a row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from refiner.data.samples import DataSet
from refiner.errors import is_user_error
from refiner.evaluate.harness import Costs, Engine, System, make_records, read_samples
from refiner.files import Json


class Stop:
    """Tells a run to begin no more samples. Those under way are finished, and their records are kept."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the run ends, in words; "" while it goes on."""

    def set(self, reason: str) -> None:
        """End the run; the first reason is kept."""
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return self.reason != ""


def several(threads: int, stop: Stop) -> Engine:
    """An engine that works on samples one by one in several threads; records come in the order of their completion.

    If one of the samples ends the run with an error, such as a key that is not accepted, those under way are finished
    and yielded first.

    Args:
        threads: samples under way at the same time, at least 1; no others are in memory. The system must be safe to
            call from several threads; the data set is read by one at a time.
        stop: ends the run.
    """

    def run(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        left, reading = iter(indices), threading.Lock()
        running: set[Future[list[Json]]] = set()
        failure: BaseException | None = None
        costs = Costs(system)
        with ThreadPoolExecutor(threads) as pool:
            while True:
                if not stop and failure is None:
                    fresh = islice(left, threads - len(running))
                    running |= {pool.submit(_records_of, data, system, index, reading) for index in fresh}
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is None:
                        yield costs.added(future.result())
                    failure = failure or error
        if failure is not None:
            raise failure

    return run


def _records_of(data: DataSet, system: System, index: int, reading: threading.Lock) -> list[Json]:
    with reading:
        loaded = read_samples(data, [index])
    return make_records(data, loaded, system)


def until(stop: Stop, engine: Engine) -> Engine:
    """The engine, which ends after the batch or block during which ``stop`` is set."""

    def run(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        for rows in engine(data, system, indices):
            yield rows
            if stop:
                return

    return run


def patient(engine: Engine, stop: Stop, most: int) -> Engine:
    """The engine; sets ``stop`` when the model has failed on ``most`` samples in a row, in the order of their records.

    Samples that cannot be read are not counted: they say nothing about the model.
    """

    def run(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        failures = 0
        for rows in engine(data, system, indices):
            for row in rows:
                error = row["error"]
                if error is None:
                    failures = 0
                elif not is_user_error(error["kind"]):
                    failures += 1
                if failures == most:
                    stop.set(f"the model failed on {most} images in a row, at last: {error['detail']}")
            yield rows

    return run
