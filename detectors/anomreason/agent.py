"""AnomAgent (papers/anomreason.md): five agents, all of them one chat model, find anomalies of meaning step by step.

1. ObjectPerceiver lists the objects in several drafts, which are merged.
2. AttributeAnalyzer looks at each object by itself, RelationReasoner at each object among the others, with the first
   one's findings as context. Each of them names possible issues broadly, and then verifies them item by item.
3. AnomalyIntegrator merges equal issues and removes noise; AnomalyFormatter writes the final list.

Departures from the paper and its released code: drafts are merged by the names of their objects, as the paper's union
is, and not by one more request; all steps but the drafts select the most probable tokens; the final list has boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from refiner.detectors.anomreason import answers, requests
from refiner.detectors.anomreason.asking import Question, ask
from refiner.detectors.anomreason.work import (
    ATTRIBUTES,
    FORMATTER,
    INTEGRATOR,
    PERCEIVER,
    RELATIONS,
    RESERVED,
    Failed,
    Issue,
    Limits,
    Thing,
    Work,
)
from refiner.detectors.base import chunks
from refiner.detectors.chat.backend import ChatBackend, ChatRequest
from refiner.detectors.grounded import Case, GroundedDetector, boxes_of
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.types import StepOutcome

UNVERIFIED = 0.5
"""Score of an issue whose verification cannot be read."""


class AnomAgent(GroundedDetector):
    """Five agents and a grounder; a ``refiner.protocols.Detector``.

    All questions of a step, about all objects and images of a batch, go to the backend together. An unreadable answer
    is asked for once more. If it stays unreadable, the rest goes on: an issue without verification is kept with the
    score ``UNVERIFIED``, issues that are not integrated stay as they are, and an anomaly that is not in the final list
    is kept without box and severity. An image is an error if no draft or no final list is readable, or if nothing was
    found and a step that looks for issues failed.

    ``Analysis.trace`` tells who found, rejected and merged what, and what was skipped or unreadable; ``tags`` say so in
    short; ``raw`` is the final list as the model wrote it. A region's ``score`` is the probability by its verification,
    its severity is 1 - score / 100 of AnomReason's severity score. ``fake_probability`` is None. The user's prompt is
    not used.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        boxes: how the model writes boxes; None: as its type or name says (``boxes_of``).
        limits: how much is asked about an image.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        boxes: BoxFormat | None = None,
        limits: Limits | None = None,
        domain: str = "",
    ) -> None:
        super().__init__(backend, grounder=grounder, boxes=boxes or boxes_of(backend), domain=domain)
        self.limits = limits or Limits()

    @property
    def name(self) -> str:
        """Model, limits and grounder; a fallback grounder is named as such."""
        limits = ", ".join(f"{name} {value}" for name, value in vars(self.limits).items())
        return f"anomagent:{self.model_name}, {limits}, masks by {self.grounder.name}"

    def _find(self, cases: Sequence[Case]) -> None:
        works = [Work(case=case, limits=self.limits) for case in cases]
        self._perceive(works)
        for stage in (ATTRIBUTES, RELATIONS):
            self._mine([work for work in works if work.open], stage)
        self._integrate([work for work in works if work.open and work.issues])
        self._format([work for work in works if work.open and work.issues])
        for work in works:
            if work.open:
                work.finish()

    def _perceive(self, works: Sequence[Work]) -> None:
        drafts = range(self.limits.drafts)
        said = ask(self.backend, [
            Question(work=work, request=requests.perceiving(work.case.shown, draft), read=answers.read_things)
            for work in works for draft in drafts
        ], shrink=self.shrink)  # fmt: skip
        for work, own in zip(works, chunks(said, len(drafts)), strict=True):
            if not work.open:
                continue
            failures = [each for each in own if isinstance(each, Failed)]
            for draft, each in enumerate(own, start=1):
                if isinstance(each, Failed):
                    work.miss(PERCEIVER, f"draft {draft}", each)
            if len(failures) == len(own):
                work.give_up("No list of the objects is readable", failures)
                continue
            things = answers.union([[] if isinstance(each, Failed) else each for each in own])
            for thing, seen in things:
                named = ", ".join(str(draft + 1) for draft in seen)
                work.note(PERCEIVER, thing.name, "found", thing.description, f"Drafts: {named}.")
            work.take([thing for thing, _ in things])

    def _mine(self, works: Sequence[Work], stage: str) -> None:
        """Name the possible issues of each object, and verify them."""
        looks = [(work, thing) for work in works for thing in work.things]
        _release(works)
        found = ask(self.backend, [
            Question(
                work=work,
                request=_identifying(work, stage, thing),
                read=partial(answers.read_issues, thing=thing.name),
            )
            for work, thing in looks
        ])  # fmt: skip
        claimed = [_claimed(work, stage, thing, own) for (work, thing), own in zip(looks, found, strict=True)]
        _release(works)
        pairs = zip(looks, claimed, strict=True)
        self._verify([(work, thing, issues) for (work, thing), issues in pairs if work.open and issues], stage)

    def _verify(self, claimed: Sequence[tuple[Work, Thing, Sequence[Issue]]], stage: str) -> None:
        verdicts = ask(self.backend, [
            Question(
                work=work,
                request=requests.verifying(work.case.shown, thing, issues),
                read=partial(answers.read_verification, issues=issues),
            )
            for work, thing, issues in claimed
        ])  # fmt: skip
        for (work, thing, issues), own in zip(claimed, verdicts, strict=True):
            kept = _judged(work, stage, thing, issues, own)
            work.issues += kept
            if stage == ATTRIBUTES:
                work.attributes[thing.name] = kept

    def _integrate(self, works: Sequence[Work]) -> None:
        for work in works:
            work.promised = RESERVED // 2
        said = ask(self.backend, [
            Question(
                work=work,
                request=requests.integrating(work.case.shown, work.issues),
                read=partial(answers.read_merging, count=len(work.issues)),
            )
            for work in works
        ])  # fmt: skip
        for work, own in zip(works, said, strict=True):
            if isinstance(own, Failed):
                work.miss(INTEGRATOR, "all issues", own)
            else:
                work.issues = _merged(work, own)

    def _format(self, works: Sequence[Work]) -> None:
        for work in works:
            work.promised = 0
        said = ask(self.backend, [
            Question(
                work=work,
                request=requests.formatting(work.case.shown, work.issues, self.boxes),
                read=partial(
                    answers.read_final, issues=work.issues, size=work.case.size, form=self.boxes,
                    shown=work.case.shown_size,
                ),
            )
            for work in works
        ])  # fmt: skip
        for work, own in zip(works, said, strict=True):
            if isinstance(own, Failed):
                work.give_up("The final list cannot be read", [own])
                continue
            work.case.raw = own.raw
            for place, issue in enumerate(work.issues):
                if place not in own.claims:
                    why = "The final list has no entry for it, so that its place and severity are not known."
                    work.note(FORMATTER, issue.thing, "unreadable", issue.name, why)
                work.case.found.append(own.claims.get(place) or answers.claim_of(issue))


def _release(works: Sequence[Work]) -> None:
    """Begin a step of all objects: the calls for it are not kept for later any more."""
    for work in works:
        work.promised -= len(work.things)


def _identifying(work: Work, stage: str, thing: Thing) -> ChatRequest:
    others = [other for other in work.things if other != thing]
    return requests.identifying(work.case.shown, stage, thing, others, work.attributes.get(thing.name, ()))


def _claimed(work: Work, stage: str, thing: Thing, own: Sequence[Issue] | Failed) -> Sequence[Issue]:
    """Note the issues that were named, and return the first ones."""
    if isinstance(own, Failed):
        work.miss(stage, thing.name, own)
        work.unseen.append(own)
        return []
    for place, issue in enumerate(own):
        if place < requests.MOST_ISSUES:
            work.note(stage, thing.name, "found", _told(issue), issue.reasoning)
        else:
            work.note(stage, thing.name, "skipped", _told(issue), f"Only {requests.MOST_ISSUES} issues are verified.")
    return own[: requests.MOST_ISSUES]


def _judged(
    work: Work, stage: str, thing: Thing, issues: Sequence[Issue], own: Sequence[answers.Verdict] | Failed
) -> list[Issue]:
    """Note the verdicts, and return the issues that are not rejected, with their scores."""
    if isinstance(own, Failed):
        work.miss(stage, thing.name, own)
        work.case.gaps.append("unverified")
        return [replace(issue, score=UNVERIFIED) for issue in issues]
    kept: list[Issue] = []
    for issue, verdict in zip(issues, own, strict=True):
        outcome: StepOutcome = "rejected" if verdict.score is None else "confirmed"
        work.note(stage, thing.name, outcome, issue.name, verdict.evidence)
        if verdict.score is not None:
            kept.append(replace(issue, score=verdict.score))
    return kept


def _merged(work: Work, merging: answers.Merging) -> list[Issue]:
    """Note what was merged and removed, and return the anomalies, each with the highest score of its issues."""
    kept: list[Issue] = []
    for group in merging.kept:
        members = [work.issues[item] for item in group.items]
        score = max(member.score for member in members)
        kept.append(replace(answers.completed(group, members[0]), score=score))
        if len(members) > 1:
            subject = ", ".join(dict.fromkeys(member.thing for member in members))
            names = "; ".join(dict.fromkeys(member.name.rstrip(".") for member in members))
            work.note(INTEGRATOR, subject, "merged", kept[-1].name, f"{len(members)} issues are one: {names}.")
    for group in merging.removed:
        for item in group.items:
            work.note(INTEGRATOR, work.issues[item].thing, "rejected", work.issues[item].name, group.reasoning)
    return kept


def _told(issue: Issue) -> str:
    return f"{issue.name.rstrip('.')}: {issue.phenomenon}" if issue.phenomenon else issue.name
