"""The results of a call: images of one start batch are refined together, round by round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from refiner.pipelines.calling.call import Call
from refiner.pipelines.together.group import Group, Member
from refiner.types import Attempt, RefinementResult

Callback = Callable[[Attempt], bool | None]


def results_of(call: Call, callback: Callback | None) -> list[RefinementResult]:
    """Refine all images of a call; each batch of its start images is a group that is refined together.

    Args:
        call: the call.
        callback: called with each attempt. If it returns True, the run of this image ends.
    """
    results: list[RefinementResult] = []
    for batch in call.batches:
        numbers = range(len(results), len(results) + batch.total)
        if batch.total == 1:
            results.append(_finished(call, numbers[0], callback))
        else:
            results += _together(call, numbers, callback)
    return results


def _together(call: Call, numbers: range, callback: Callback | None) -> list[RefinementResult]:
    pipe = call.pipe
    group = Group(pipe.detector, pipe.judge, pipe.reviser, most=call.config.batch_size)
    return group.run([partial(_finished, call, number, callback, group.member()) for number in numbers])


def _finished(call: Call, number: int, callback: Callback | None, member: Member | None = None) -> RefinementResult:
    run = call.run(number, member)
    for attempt in run:
        told = None if callback is None else partial(callback, attempt)
        try:
            if told is not None and (told() if member is None else member.callback(told)):
                run.stop()
        except Exception as error:
            if call.config.on_error == "raise":
                raise
            run.fail(error)
    return run.result
