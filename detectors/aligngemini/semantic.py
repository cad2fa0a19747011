"""The semantic branch: a vision-language model that judges only what an image shows (papers/aligngemini.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refiner.detectors.aligngemini.grammar import read
from refiner.detectors.aligngemini.question import asking
from refiner.detectors.chat.backend import ChatReply
from refiner.detectors.grounded import Case, GroundedDetector
from refiner.types import Claim

WHOLE = "the image as a whole"
"""Name of the unplaced region of an image that is called fake without a reason."""
_SILENT = "The answer calls the image fake and gives no reason."


class SemanticDetector(GroundedDetector):
    """A model that answers as ``grammar`` says, and a grounder; a ``refiner.protocols.Detector``.

    ``fake_probability`` is the probability of "fake" against "real" as the first word of the answer. If the backend
    does not give it, it is 1 or 0, as the verdict says; it then is no estimate. Each reason is a region. Its ``score``
    is the ``fake_probability``, or 1 if the backend gives no probabilities. The answer has no severities. An image that
    is called fake without a reason has one unplaced region named ``WHOLE``. The user's prompt is not used.

    Args:
        backend, grounder, boxes, domain, max_side: as for ``GroundedDetector``.
    """

    @property
    def name(self) -> str:
        """Model and grounder; a fallback grounder is named as such."""
        return f"semantic:{self.model_name}, masks by {self.grounder.name}"

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``."""
        return True

    def _find(self, cases: Sequence[Case]) -> None:
        self._ask(cases, lambda case: asking(case.shown, self.boxes), self._take)

    def _take(self, case: Case, reply: ChatReply) -> None:
        case.raw = reply.text
        answer = read(reply.text, form=self.boxes, shown=case.shown_size)
        score = None if reply.probabilities is None else round(reply.probabilities[0], 6)
        case.fake = float(answer.fake) if score is None else score
        claims = answer.claims(case.size)
        if answer.fake and not claims:
            claims = [Claim(name=WHOLE, explanation=_SILENT)]
        case.found = [replace(claim, score=score) for claim in claims]
