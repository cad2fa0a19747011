"""Engines of several threads, and runs that end early: the records are those of the plain engine, and none is lost."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.errors import ConfigError, InputError, ModelError
from refiner.evaluate.engines import Stop, patient, several, until
from refiner.evaluate.harness import work
from refiner.files import Json


class Numbers:
    """Samples that are numbers; every seventh cannot be read. It must be read by one thread at a time."""

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.names = tuple(map(str, range(count)))
        self.read = 0
        self._reading = threading.Lock()

    def load(self, index: int) -> Sample:
        assert self._reading.acquire(blocking=False), "two threads read at the same time"
        self.read += 1
        time.sleep(0.0005)
        self._reading.release()
        if index % 7 == 6:
            raise InputError(f"{index} is damaged.")
        return Sample(name=self.names[index])


class Squares:
    """Squares numbers, the first ones most slowly; ``fails`` says on which it fails, and with what."""

    def __init__(self, batch_size: int = 1, fails: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.batch_size, self.fails = batch_size, fails
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0

    def identity(self) -> Json:
        return {"detector": "squares"}

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(0.002 + 0.01 / (1 + int(samples[0].name)))
        with self.lock:
            self.under_way -= 1
        for sample in samples:
            if error := self.fails(int(sample.name)):
                raise error
        return [{"square": int(sample.name) ** 2} for sample in samples]


def untimed(batches: Any) -> list[Json]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for rows in batches for row in rows]
    return sorted(rows, key=lambda row: row["index"])


def odd(number: int) -> Exception | None:
    return ModelError("odd") if number % 5 == 3 else None


@pytest.mark.parametrize("threads", [1, 2, 8, 100])
def test_several_threads_make_the_records_of_one(threads: int) -> None:
    data, system = Numbers(40), Squares(fails=odd)
    found = untimed(several(threads, Stop())(data, system, range(40)))
    assert found == untimed(work(Numbers(40), Squares(fails=odd), range(40)))
    assert system.most <= threads
    assert (system.most > 1) == (threads > 1)


@pytest.mark.parametrize("engine", ["several", "work"])
def test_a_stop_finishes_what_is_under_way_and_begins_no_more(engine: str) -> None:
    stop, data = Stop(), Numbers(60)
    run = several(4, stop) if engine == "several" else until(stop, work)
    rows = []
    for batch in run(data, Squares(), range(60)):
        rows += batch
        if len(rows) == 10:
            stop.set("enough")
            stop.set("too late")
    assert stop.reason == "enough"
    assert 10 <= len(rows) <= 14
    assert len(rows) == data.read or engine == "work", "each that was read has its record"


@pytest.mark.parametrize("error", [ConfigError("the key is not accepted"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_an_error_that_ends_the_run_loses_no_other_record(error: Exception) -> None:
    data, rows = Numbers(60), list[Json]()
    engine = several(4, Stop())(data, Squares(fails=lambda number: error if number == 9 else None), range(60))
    with pytest.raises(type(error)):
        collections.deque(map(rows.extend, engine), maxlen=0)
    assert len(rows) == data.read - 1, "all but the sample that failed"
    assert len(rows) < 20


@pytest.mark.parametrize("engine", ["several", "work"])
def test_failures_in_a_row_end_the_run(engine: str) -> None:
    """Samples that cannot be read neither count nor interrupt the row."""
    for fails, ends in ((odd, False), (lambda number: ModelError("down") if number >= 20 else None, True)):
        stop = Stop()
        inner = several(2, stop) if engine == "several" else until(stop, work)
        rows = untimed(patient(inner, stop, 4)(Numbers(60), Squares(fails=fails), range(60)))
        assert bool(stop) == ends
        assert (len(rows) < 30) == ends
        assert stop.reason == ("the model failed on 4 images in a row, at last: down" if ends else "")
