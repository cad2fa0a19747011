"""Queue and jobs: in order, a bounded number at a time, refused if the queue is full, and stopped on request."""

from __future__ import annotations

import threading

import pytest

from refiner.demo.jobs import Desk, Waiting
from refiner.demo.line import Line, StoppedError
from refiner.errors import BusyError

SOON = 30.0
"""Seconds that are long enough for everything that a test waits for."""


def visitors(line, count, free):
    """Start threads that pass the queue in this order.

    Returns:
        The threads, their numbers in the order of entering, and how many were inside at each entering.
    """
    entered, inside, most = [], set(), []

    def come(number: int) -> None:
        with line.place(threading.Event()):
            entered.append(number)
            inside.add(number)
            most.append(len(inside))
            assert free.wait(SOON)
            inside.discard(number)

    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=come, args=(number,)))
        threads[-1].start()
        while len(line) <= number:
            threads[-1].join(0.001)
    return threads, entered, most


@pytest.mark.parametrize("places", [1, 3])
def test_so_many_are_inside_and_the_others_follow_in_their_order(places):
    line, free = Line(places), threading.Event()
    threads, entered, most = visitors(line, 8, free)
    while len(entered) < places:
        threads[0].join(0.001)
    assert sorted(entered) == list(range(places))
    free.set()
    for thread in threads:
        thread.join(SOON)
    assert sorted(entered) == list(range(8))
    assert max(most) == places
    assert len(line) == 0
    if places == 1:
        assert entered == list(range(8))


def test_each_is_told_how_many_are_ahead():
    line, told, free = Line(1), [], threading.Event()
    threads, _, _ = visitors(line, 3, free)

    def come() -> None:
        with line.place(threading.Event(), told.append):
            pass

    last = threading.Thread(target=come)
    last.start()
    while not told:
        last.join(0.001)
    assert told == [3]
    free.set()
    for thread in (*threads, last):
        thread.join(SOON)
    assert told == sorted(told, reverse=True)
    assert set(told) <= {1, 2, 3}


def test_who_finds_no_room_is_told_so_and_who_is_stopped_leaves():
    line, stopped = Line(1, waiting=1), threading.Event()
    left = []

    def wait() -> None:
        with pytest.raises(StoppedError), line.place(stopped):
            pass
        left.append(True)

    with line.place(threading.Event()):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while len(line) < 2:
            waiting.join(0.001)
        with pytest.raises(BusyError, match="2 jobs are running or waiting: try again"), line.place(threading.Event()):
            pass
        stopped.set()
        waiting.join(SOON)
        assert left == [True]
        assert len(line) == 1


def test_a_place_comes_free_after_an_error():
    line = Line(1)
    with pytest.raises(ZeroDivisionError), line.place(threading.Event()):
        _ = 1 / 0
    with line.place(threading.Event()):
        pass


def test_a_job_tells_what_happens_as_it_happens():
    go = threading.Event()

    def work(_job, tell):
        tell("begun")
        assert go.wait(SOON)
        tell("done")

    events = Desk(1, 0).run("me", work)
    assert next(events) == "begun"
    go.set()
    assert list(events) == ["done"]


def test_an_error_of_a_job_is_that_of_who_listens():
    def work(_job, tell):
        tell("begun")
        raise ZeroDivisionError("of the job")

    events = Desk(1, 0).run("me", work)
    assert next(events) == "begun"
    with pytest.raises(ZeroDivisionError, match="of the job"):
        next(events)


def holding(free):
    def work(job, tell):
        tell("begun")
        while not free.wait(0.01):
            job.check()
        tell("done")

    return work


def test_stopping_a_user_stops_all_jobs_of_that_user_and_no_other():
    desk, free = Desk(2, 1), threading.Event()
    mine, other, waiting = (desk.run(who, holding(free)) for who in ("me", "you", "me"))
    assert next(mine) == next(other) == "begun"
    assert next(waiting) == Waiting(ahead=1)
    assert desk.stop("me") == 2
    assert list(mine) == list(waiting) == []
    assert desk.stop("me") == 0
    free.set()
    assert list(other) == ["done"]


def test_who_stops_listening_frees_the_place():
    desk, free = Desk(1, 0), threading.Event()
    left = desk.run("me", holding(free))
    assert next(left) == "begun"
    with pytest.raises(BusyError):
        list(desk.run("you", holding(free)))
    left.close()
    while desk.stop("me"):
        pass
    free.set()
    assert list(desk.run("you", holding(free))) == ["begun", "done"]


def test_turns_at_the_models_are_taken_one_by_one():
    desk, inside, most = Desk(4, 0), [], []

    def work(job, tell):
        for _ in range(50):
            with desk.turn(job):
                inside.append(job)
                most.append(len(inside))
                inside.remove(job)
        tell("done")

    jobs = [desk.run(str(number), work) for number in range(4)]
    assert [list(job) for job in jobs] == [["done"]] * 4
    assert len(most) == 200
    assert max(most) == 1
