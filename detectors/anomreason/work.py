"""The state of AnomAgent's work on one image: what it found, what it may still ask, and the trace of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from refiner.detectors.grounded import Case
from refiner.detectors.reading.regions import MAX_WORDS, plain_text
from refiner.errors import ConfigError, RefinerError, UnreadableOutputError
from refiner.types import Step, StepOutcome

PERCEIVER, ATTRIBUTES, RELATIONS = "ObjectPerceiver", "AttributeAnalyzer", "RelationReasoner"
INTEGRATOR, FORMATTER = "AnomalyIntegrator", "AnomalyFormatter"
"""The agents, by the names of the paper."""

STEPS_OF_AN_OBJECT = 4
"""Identification and verification, of attributes and of relations."""
_SHOWN = 80
"""Characters of an answer in an error message."""
RESERVED = 4
"""Calls that are kept for the last two agents: two attempts each."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much AnomAgent asks about one image."""

    drafts: int = 3
    """How often the objects are listed (T in the paper)."""
    max_objects: int = 12
    """Most objects that are analysed."""
    max_calls: int = 64
    """Most requests, those that are answered from the cache and second attempts included. The tokens of an image are
    bounded by this number times the limit of the backend."""

    def __post_init__(self) -> None:
        least = 2 * self.drafts + STEPS_OF_AN_OBJECT + RESERVED
        for name, bound in (("drafts", 1), ("max_objects", 1), ("max_calls", least)):
            if getattr(self, name) < bound:
                why = f" with {self.drafts} drafts" if name == "max_calls" else ""
                raise ConfigError(f"Limits.{name} must be at least {bound}{why}, got {getattr(self, name)}.")


class Thing(NamedTuple):
    """An object in the image."""

    name: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Issue:
    """An anomaly that was claimed of an object."""

    thing: str
    """The object's name."""
    name: str
    phenomenon: str
    reasoning: str
    score: float = 0.5
    """Probability that it is an anomaly, in [0, 1], by its verification; 0.5 without one."""

    @property
    def told(self) -> dict[str, str]:
        """The fields that a model gets."""
        return {
            "object": self.thing,
            "name": self.name,
            "observed_phenomenon": self.phenomenon,
            "reasoning": self.reasoning,
        }


class Failed(NamedTuple):
    """A step without a readable answer."""

    errors: tuple[RefinerError, ...]
    """One for each attempt."""

    @property
    def raw(self) -> str:
        """The texts that the model wrote."""
        return "\n\n".join(error.raw for error in self.errors if isinstance(error, UnreadableOutputError))


@dataclass(kw_only=True, eq=False)
class Work:
    """What is known about one image."""

    case: Case
    limits: Limits
    calls: int = 0
    """Requests so far."""
    promised: int = STEPS_OF_AN_OBJECT + RESERVED
    """Requests that must remain possible for later steps."""
    things: list[Thing] = field(default_factory=list)
    attributes: dict[str, list[Issue]] = field(default_factory=dict)
    """Issues of each object itself that were not rejected, by its name."""
    issues: list[Issue] = field(default_factory=list)
    """All issues that were not rejected."""
    failures: list[Failed] = field(default_factory=list)
    unseen: list[Failed] = field(default_factory=list)
    """Failures of steps that look for issues, so that something may have been missed."""

    @property
    def open(self) -> bool:
        """Whether the work goes on; it ends with an error of the image."""
        return self.case.outcome is None

    def spend_spare(self) -> bool:
        """Count one more request if no later step needs it; returns whether it may be made."""
        spare = self.limits.max_calls - self.calls - self.promised > 0
        self.calls += spare
        return spare

    def note(self, stage: str, subject: str, outcome: StepOutcome, text: str = "", reason: str = "") -> None:
        """Add a step to the trace."""
        self.case.trace.append(Step(stage=stage, subject=subject, outcome=outcome, text=text, reason=reason))

    def miss(self, stage: str, subject: str, failed: Failed) -> None:
        """Note a step without a readable answer."""
        self.failures.append(failed)
        texts = [plain_text(text, MAX_WORDS) for text in (failed.raw, str(failed.errors[-1]))]
        self.note(stage, subject, "unreadable", *texts)

    def give_up(self, what: str, failures: Sequence[Failed]) -> None:
        """End the work with an error that holds the raw texts of failed steps, or tells why there was no answer."""
        errors = [error for failed in failures for error in failed.errors]
        raw = "\n\n".join(filter(None, (failed.raw for failed in failures)))
        unread = [error for error in errors if isinstance(error, UnreadableOutputError)]
        self.case.outcome = (
            UnreadableOutputError(
                f"{what}, because {len(unread)} answers such as {unread[0].raw[:_SHOWN]!r} cannot be read: use a model "
                "that follows instructions better.",
                raw,
            )
            if unread
            else errors[0]
        )

    def take(self, things: Sequence[Thing]) -> None:
        """Choose the objects to analyse, as many as the limits allow, in order; the others are noted as skipped."""
        room = (self.limits.max_calls - self.calls - RESERVED) // STEPS_OF_AN_OBJECT
        count = min(len(things), self.limits.max_objects, room)
        name = "max_objects" if count == self.limits.max_objects else "max_calls"
        limit = f"{name}={getattr(self.limits, name)}"
        self.things = list(things[:count])
        self.promised = STEPS_OF_AN_OBJECT * count + RESERVED
        for thing in things[count:]:
            self.note(PERCEIVER, thing.name, "skipped", thing.description, f"The limit {limit} was reached.")
        if len(things) > count:
            left = len(things) - count
            self.case.tags += (f"{left} of {len(things)} objects not analysed: the limit {limit} was reached",)

    def finish(self) -> None:
        """Say in the tags how many steps failed; an image for which nothing was found must have been seen in full."""
        if not self.case.found and self.unseen:
            self.give_up("No anomaly was found, but not all objects could be analysed", self.unseen)
        elif self.failures:
            steps = "step" if len(self.failures) == 1 else "steps"
            self.case.tags += (f"{len(self.failures)} {steps} without a readable answer",)
