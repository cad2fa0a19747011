"""AnomReasonor as a detector: a model that is tuned to list anomalies (papers/anomreason.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from refiner.detectors.anomreason.grammar import Anomaly, read, read_reasons, read_verdict
from refiner.detectors.anomreason.notes import Note
from refiner.detectors.anomreason.question import IS_IT_GENERATED, MAX_TOKENS, asking
from refiner.detectors.chat.backend import ChatBackend, ChatReply, ChatRequest, Choice
from refiner.detectors.grounded import Case, GroundedDetector, boxes_of
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.types import Claim

WHOLE = "the image as a whole"
"""Name of the unplaced region of an image that is called generated without an anomaly that is listed."""
_SILENT = "The answer calls the image generated and lists no anomaly."
_WORDS = ("Yes", "No")


class AnomReasonorDetector(GroundedDetector):
    """A model that answers as AnomReasonor does, and a grounder; a ``refiner.protocols.Detector``.

    In the format ``authenticity_reasoning``, the first turn asks whether the image is generated. ``fake_probability``
    is the probability of Yes against No there; if the backend does not give it, it is 1 or 0, as the answer says. The
    second turn asks for the anomalies. Each of them is a region, whatever the first answer; its ``score`` is the
    ``fake_probability``, or 1 if the backend gives no probabilities. An image that is called generated without an
    anomaly has one unplaced region named ``WHOLE``.

    In the format ``anomaly_only`` there is one turn, and ``fake_probability`` is 1 if an anomaly is listed, else 0; it
    then is no estimate, and each score is 1.

    Severity is 1 - score / 100 of AnomReason's severity score. Regions without a box, as all of the authors' weights,
    are unplaced. ``raw`` holds the answers and the source of each mask. The user's prompt is not used. Of a list that
    ends at the limit of its tokens, the complete anomalies are kept, and ``gaps`` has "cut_short".

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        note: how the model answers. It is asked for boxes only if the note says how it writes them.
        boxes: how boxes are read that the model writes although the note does not say how; None: as its type or name
            says (``boxes_of``).
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        note: Note | None = None,
        boxes: BoxFormat | None = None,
        domain: str = "",
    ) -> None:
        self.note = note or Note()
        form = self.note.boxes or boxes or boxes_of(backend)
        super().__init__(backend, grounder=grounder, boxes=form, domain=domain, max_side=self.note.max_side)

    @property
    def name(self) -> str:
        """Model, format and grounder; a fallback grounder is named as such."""
        return f"anomreason:{self.model_name}, format {self.note.form}, masks by {self.grounder.name}"

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``."""
        return True

    def _find(self, cases: Sequence[Case]) -> None:
        if self.note.form == "anomaly_only":
            self._ask(cases, self._listing, self._take_list)
            return
        verdicts: dict[int, _Verdict] = {}
        self._ask(cases, _deciding, partial(_take_verdict, verdicts))
        going_on = [case for case in cases if case.outcome is None]
        self._ask(going_on, self._explaining, lambda case, reply: self._take_reasons(case, reply, verdicts[id(case)]))

    def _listing(self, case: Case) -> ChatRequest:
        return ChatRequest(
            user=asking(case.shown, self.note.form, self.note.boxes), images=(case.shown,), max_tokens=MAX_TOKENS
        )

    def _explaining(self, case: Case) -> ChatRequest:
        return replace(self._listing(case), history=((IS_IT_GENERATED, case.raw),))

    def _take_reasons(self, case: Case, reply: ChatReply, verdict: _Verdict) -> None:
        cut = reply.finish == "length"
        found = read_reasons(reply.text, fake=verdict.fake, form=self.boxes, shown=case.shown_size, cut=cut)
        case.raw += f"\n\n{reply.text}"
        case.fake = float(verdict.fake) if verdict.probability is None else verdict.probability
        case.found = _claims(found, case, verdict.probability)
        if verdict.fake and not found:
            case.found = [Claim(name=WHOLE, explanation=_SILENT, score=verdict.probability)]

    def _take_list(self, case: Case, reply: ChatReply) -> None:
        found = read(reply.text, form=self.boxes, shown=case.shown_size, cut=reply.finish == "length")
        case.raw, case.fake = reply.text, float(bool(found))
        case.found = _claims(found, case, None)


class _Verdict(NamedTuple):
    """The answer to the first turn."""

    fake: bool
    probability: float | None
    """Of Yes against No; None if it is not known."""


def _deciding(case: Case) -> ChatRequest:
    return ChatRequest(user=IS_IT_GENERATED, images=(case.shown,), max_tokens=16, choice=Choice("", _WORDS))


def _take_verdict(verdicts: dict[int, _Verdict], case: Case, reply: ChatReply) -> None:
    fake, shares = read_verdict(reply.text), reply.probabilities
    verdicts[id(case)] = _Verdict(fake, None if shares is None else round(shares[0], 6))
    case.raw = _WORDS[not fake]


def _claims(found: Sequence[Anomaly], case: Case, score: float | None) -> list[Claim]:
    return [replace(anomaly.claim(case.size), score=score) for anomaly in found]
