"""FakeXplain as a detector: one request for each image, answered by flaws with boxes, tags and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refiner.detectors.chat.backend import ChatBackend, ChatReply
from refiner.detectors.fakexplain.grammar import DIALECTS, WHOLE, Answer, Dialect, read, thoughts
from refiner.detectors.fakexplain.question import asking
from refiner.detectors.grounded import Case, GroundedDetector, boxes_of
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import MAX_WORDS, plain_text
from refiner.detectors.reading.words import read_category
from refiner.types import Claim

_SILENT = "The answer calls the image generated and describes no flaw."


class FakexplainDetector(GroundedDetector):
    """A model that answers as FakeXplain does (papers/fakexplain.md), and a grounder; a ``refiner.protocols.Detector``.

    ``fake_probability`` is the probability of the verdict "generated" against "real" where the model writes its
    verdict, without regard to all other words. If the backend does not give it, it is 1 or 0, as the verdict says; it
    then is no estimate. ``Analysis.tags`` are the model's tags, ``raw`` its answer and the source of each mask.

    Each described flaw is a region, whatever the verdict. Its ``score`` is the ``fake_probability``, or 1 if the
    backend gives no probabilities. The answer has no severities. An image that is called generated, but without a flaw,
    has one unplaced region named ``WHOLE``, whose explanation is the tags, else the model's thoughts.

    The user's prompt is not used, as in the paper: the image alone is judged.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        dialect: how the model answers.
        boxes: how the model writes boxes; None: as its type or name says (``boxes_of``). A dialect with boxes of
            its own ignores this.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
        max_side: longest side of the images shown to the model, in pixels, if less than that of the backend.
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        dialect: Dialect = DIALECTS["paper"],
        boxes: BoxFormat | None = None,
        domain: str = "",
        max_side: int | None = None,
    ) -> None:
        form = dialect.boxes or boxes or boxes_of(backend)
        super().__init__(backend, grounder=grounder, boxes=form, domain=domain, max_side=max_side)
        self.dialect = dialect

    @property
    def name(self) -> str:
        """Model, dialect and grounder; a fallback grounder is named as such."""
        return f"fakexplain:{self.model_name}, dialect {self.dialect.name}, masks by {self.grounder.name}"

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``."""
        return True

    def _find(self, cases: Sequence[Case]) -> None:
        self._ask(cases, lambda case: asking(case.shown, self.dialect, self.boxes), self._take)

    def _take(self, case: Case, reply: ChatReply) -> None:
        case.raw = reply.text
        answer = read(reply.text, self.dialect, form=self.boxes, shown=case.shown_size)
        score = None if reply.probabilities is None else round(reply.probabilities[0], 6)
        case.fake = float(answer.fake) if score is None else score
        case.tags = answer.tags
        claims = answer.claims(case.size)
        if answer.fake and not claims:
            claims = [_whole_image(answer, reply.text)]
        case.found = [replace(claim, score=score) for claim in claims]


def _whole_image(answer: Answer, text: str) -> Claim:
    words = plain_text(", ".join(answer.tags), MAX_WORDS) or thoughts(text) or _SILENT
    return Claim(name=WHOLE, explanation=words, category=read_category(words))
