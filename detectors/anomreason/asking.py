"""Send the questions of a step about all objects and images together; unreadable answers get a second attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from refiner.answers import value_of
from refiner.detectors.anomreason.prompts import prompt
from refiner.detectors.anomreason.work import Failed, Work
from refiner.detectors.chat.backend import ChatBackend, ChatRequest, Outcome
from refiner.detectors.grounded import Case, complete_shown
from refiner.detectors.vlm.questions import quoted
from refiner.errors import RefinerError, UnreadableOutputError, UserError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_SHOWN = 200
"""Characters of an unreadable answer that the model gets to see again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question(Generic[T_co]):
    """One request about an image."""

    work: Work
    request: ChatRequest
    read: Callable[[str], T_co]
    """Reads the answer; raises ``UnreadableOutputError``."""

    def again(self, error: UnreadableOutputError) -> Question[T_co]:
        """The same question, which tells what was wrong with the first answer."""
        told = prompt("again", problem=quoted(str(error)), answer=quoted(error.raw[:_SHOWN]))
        return replace(self, request=replace(self.request, user=f"{self.request.user}\n\n{told}"))


def ask(
    backend: ChatBackend, questions: Sequence[Question[T]], *, shrink: Callable[[Case], bool] = lambda _case: False
) -> list[T | Failed]:
    """Send all questions together, and those with unreadable answers once more; returns what was read, in order.

    ``shrink`` is that of ``complete_shown``; the questions must not tell the size of the image. A second
    attempt needs a spare call of its image. An error that the user can fix ends the work on its image.
    """
    for question in questions:
        question.work.calls += 1
    first = _send(backend, questions, shrink)
    unread = {
        place: answer
        for place, answer in enumerate(first)
        if isinstance(answer, UnreadableOutputError) and questions[place].work.spend_spare()
    }
    repeated = _send(backend, [questions[place].again(error) for place, error in unread.items()], shrink)
    second = dict(zip(unread, repeated, strict=True))
    return [
        _settle(question.work, [answer, *([second[place]] if place in second else [])])
        for place, (question, answer) in enumerate(zip(questions, first, strict=True))
    ]


def _send(
    backend: ChatBackend, questions: Sequence[Question[T]], shrink: Callable[[Case], bool]
) -> list[T | RefinerError]:
    cases = [question.work.case for question in questions]
    outcomes = complete_shown(
        backend, cases, lambda place: replace(questions[place].request, images=(cases[place].shown,)), shrink
    )
    return [_read(question, outcome) for question, outcome in zip(questions, outcomes, strict=True)]


def _read(question: Question[T], outcome: Outcome) -> T | RefinerError:
    try:
        reply = value_of(outcome)
        read = question.read(reply.text)
        question.work.case.gaps += ["cut_short"] if reply.finish == "length" else []
        return read
    except RefinerError as error:
        return error


def _settle(work: Work, attempts: Sequence[T | RefinerError]) -> T | Failed:
    """The last answer if it was read; else all errors, of which the image keeps those that the user can fix."""
    if not isinstance(attempts[-1], RefinerError):
        return attempts[-1]
    errors = tuple(error for error in attempts if isinstance(error, RefinerError))
    if isinstance(errors[-1], UserError) and work.open:
        work.case.outcome = errors[-1]
    return Failed(errors)
