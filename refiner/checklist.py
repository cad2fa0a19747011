"""The checklist of a prompt: statements about the image that can be checked one by one, and what a detector answers.

As in TIFA (arXiv 2303.11897) and DSG (arXiv 2310.18235), a prompt becomes short statements, each of which is put as a
question about the image. A statement may need others: "there is a red cup" needs "there is a cup". Where one that it
needs does not hold, it does not hold either, and is no flaw of its own.

The answers are steps in ``Analysis.trace``: a step for each statement, whose stage is ``STAGE`` and the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from refiner.errors import ConfigError
from refiner.types import Step, StepOutcome

Kind = Literal["object", "count", "attribute", "relation", "text"]
"""What a statement is about: that a thing is there, how many, what it is like, where it is or what it does, and what is
written on it."""
Reply = Literal["yes", "no", "cannot tell", "unreadable"]
"""The answer to a statement; ``unreadable`` if the model gave none, or one that cannot be read."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
STAGE: Final = "checklist"
UNREAD: Final = "prompt"
"""Stands for the kind in the stage of a part of the prompt that has no statement."""
MAX_STATEMENTS: Final = 40
"""Most statements of a prompt; the rest of the prompt has none."""

_OUTCOMES: Final[dict[Reply, StepOutcome]] = {
    "yes": "confirmed", "no": "rejected", "cannot tell": "skipped", "unreadable": "unreadable",
}  # fmt: skip
_REPLIES: Final = {outcome: reply for reply, outcome in _OUTCOMES.items()}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that a prompt says of the image."""

    kind: Kind
    text: str
    """A sentence that is true or false of an image, such as "there are exactly three red cats"."""
    subject: str
    """What it is about, in the words of the prompt, such as "the three red cats"."""
    needs: tuple[int, ...] = ()
    """Numbers of earlier statements, from 0, without which this one cannot hold."""


class Unread(NamedTuple):
    """A part of a prompt that has no statement."""

    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """The statements of a prompt, and the parts of it that have none.

    Raises:
        ConfigError: a statement needs one that does not come before it.
    """

    statements: tuple[Statement, ...]
    unread: tuple[Unread, ...] = ()

    def __post_init__(self) -> None:
        for number, statement in enumerate(self.statements):
            if any(not 0 <= each < number for each in statement.needs):
                raise ConfigError(f"Expected statement {number} to need only earlier ones, got {statement.needs}.")


class Answered(NamedTuple):
    """A statement with its answer."""

    kind: Kind
    reply: Reply


def settled(checklist: Checklist, replies: Sequence[Reply]) -> list[Reply]:
    """Return the replies, with "no" for each statement that needs one that does not hold."""
    found: list[Reply] = []
    for statement, reply in zip(checklist.statements, replies, strict=True):
        found.append("no" if any(found[each] == "no" for each in statement.needs) else reply)
    return found


def own_faults(checklist: Checklist, replies: Sequence[Reply]) -> list[int]:
    """The numbers of the statements that do not hold although all that they need may hold."""
    final = settled(checklist, replies)
    return [
        number
        for number, statement in enumerate(checklist.statements)
        if replies[number] == "no" and not any(final[each] == "no" for each in statement.needs)
    ]


def to_trace(checklist: Checklist, replies: Sequence[Reply], evidence: Sequence[str]) -> tuple[Step, ...]:
    """One step for each statement with its reply, and one for each part of the prompt without a statement."""
    told = zip(checklist.statements, settled(checklist, replies), evidence, strict=True)
    steps = [
        Step(stage=f"{STAGE} {each.kind}", subject=each.text, outcome=_OUTCOMES[reply], text=reply, reason=reason)
        for each, reply, reason in told
    ]
    stage = f"{STAGE} {UNREAD}"
    unread = [Step(stage=stage, subject=part.text, outcome="skipped", reason=part.reason) for part in checklist.unread]
    return (*steps, *unread)


def of_trace(trace: Sequence[Step]) -> list[Answered]:
    """Read the statements back; steps of other stages are left out."""
    kinds = {f"{STAGE} {kind}": kind for kind in KINDS}
    return [Answered(kinds[step.stage], _REPLIES[step.outcome]) for step in trace if step.stage in kinds]


def share_that_holds(answers: Sequence[Answered]) -> float | None:
    """The share of "yes" among the statements with "yes" or "no", in [0, 1]; None if there are none."""
    decided = [each.reply == "yes" for each in answers if each.reply in ("yes", "no")]
    return sum(decided) / len(decided) if decided else None
