"""The loop with a checklist as its detector: what it does about statements that do not hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.chat.backend import ChatReply, ChatRequest
from refiner.detectors.checklist.detector import ChecklistDetector
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.ledger import Ledger
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.protocols import InpaintJob, PaintJob
from refiner.types import Calls, RefinementResult

PROMPT = "a cup"
EMPTY, CUP = (128, 128, 128), (0, 255, 0)


def picture(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (48, 32), colour)


@dataclass
class Looker:
    """A chat model that sees the cup if there is something green in the middle."""

    box: list[float] | None
    name: str = "looker"
    max_side: int = 512
    ledger: Ledger = field(default_factory=Ledger)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: ChatRequest) -> ChatReply:
        seen = request.images[0].getpixel((24, 16)) == CUP
        told = {"item": 1, "evidence": "seen", "answer": "yes" if seen else "no", "box": None if seen else self.box}
        return ChatReply(text=json.dumps({"answers": [told]}), finish="stop", prompt_tokens=1, completion_tokens=1)


@dataclass
class Painter:
    """Generates an empty image first and then the cup; inpaints the cup."""

    painted: list[PaintJob] = field(default_factory=list)
    jobs: list[InpaintJob] = field(default_factory=list)

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        found = [picture(CUP if self.painted or place else EMPTY) for place in range(len(jobs))]
        self.painted += jobs
        return found

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        return [Image.fromarray(np.where(job.mask[..., None], CUP, job.image).astype(np.uint8)) for job in jobs]

    def spent(self) -> Calls:
        return Calls()


def run(painter: Painter, box: list[float] | None, image: Image.Image | None, strategy: str) -> RefinementResult:
    detector = ChecklistDetector(Looker(box), grounder=BoxGrounder(), boxes=BoxFormat(scale="unit"))
    parts = Parts(generator=painter, inpainter=painter, detector=detector, judge=None, reviser=TemplateReviser())
    return refine(parts, PROMPT, RefineConfig(strategy=strategy), image=image).result  # type: ignore[arg-type]


def actions(result: RefinementResult) -> list[str]:
    return [attempt.action for attempt in result.attempts]


@pytest.mark.parametrize("strategy", ["auto", "regenerate"])
def test_what_is_missing_without_a_place_leads_to_a_new_image(strategy: str) -> None:
    painter = Painter()
    result = run(painter, None, None, strategy)
    assert (actions(result), result.stop, result.best) == (["generate", "regenerate"], "clean", 1)
    assert painter.jobs == []


@pytest.mark.parametrize("strategy", ["auto", "regenerate", "inpaint"])
def test_what_is_missing_without_a_place_never_replaces_a_given_image(strategy: str) -> None:
    painter, given = Painter(), picture(EMPTY)
    result = run(painter, None, given, strategy)
    assert (actions(result), result.image.tobytes()) == (["given"], given.tobytes())
    assert (painter.painted, painter.jobs) == ([], [])
    assert [region.placed for region in result.attempts[0].analysis.regions] == [False]  # type: ignore[union-attr]


@pytest.mark.parametrize("image", [None, picture(EMPTY)])
def test_what_is_missing_at_a_place_is_inpainted_there(image: Image.Image | None) -> None:
    painter = Painter()
    result = run(painter, [0.25, 0.25, 0.75, 0.75], image, "auto")
    assert (actions(result)[1:], result.stop, result.best) == (["inpaint"], "clean", 1)
    assert result.image.getpixel((0, 0)) == EMPTY
