"""The parts of one image's refinement that ask services, together with the parts of other images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from PIL import Image

from refiner.answers import value_of
from refiner.errors import RefinerError
from refiner.ledger import Ledger, added
from refiner.pipelines.judges import Opinion
from refiner.pipelines.together.scheduler import Scheduler
from refiner.pipelines.together.services import Answer, Asked, Images, Looks, Patches, Revisions, Steps
from refiner.protocols import InpaintJob, PaintJob, Reviser, Revision
from refiner.types import Analysis, Attempt, Calls, Region

T = TypeVar("T")


class Seat:
    """One image of several that are refined together: asks the services, and knows the image's share of the costs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seconds, self._since = 0.0, time.monotonic()

    def clock(self) -> float:
        """Seconds since construction that were spent on this image; it stands still while others have their turn."""
        return self._seconds + time.monotonic() - self._since

    def ask(self, service: Asked, item: Any) -> Answer:
        """Ask a service.

        Raises:
            Exception: that of the service for this image.
        """
        self._seconds = self.clock()
        answer: Answer = self._scheduler.ask(service, item)
        self._seconds, self._since = self._seconds + answer.seconds, time.monotonic()
        return answer

    def call(self, steps: Steps, work: Callable[[], T]) -> T:
        """Call a function in the thread that calls the models."""
        value: T = _value(self.ask(steps, work))
        return value


def _value(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.value


class _Part:
    """What the parts have in common: the service that they ask, and the image's share of its costs."""

    def __init__(self, seat: Seat, service: Asked) -> None:
        self._seat, self._service = seat, service
        self._rows = 0
        self._costs: Mapping[str, Ledger] = {}

    def _ask(self, item: Any, service: Asked | None = None) -> Answer:
        answer = self._seat.ask(service or self._service, item)
        self._rows += answer.rows
        self._costs = added(self._costs, answer.costs)
        return answer

    def spent(self) -> Calls:
        """The image's share of the denoiser rows."""
        return Calls(denoiser_rows=self._rows)

    def ledgers(self) -> Mapping[str, Ledger]:
        """The image's share of the costs of chat models."""
        return self._costs


class SharedDetector(_Part):
    """A detector that several images ask together."""

    def __init__(self, seat: Seat, looks: Looks) -> None:
        super().__init__(seat, looks)
        self.name = looks.name

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image], [prompt or ""])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        return [value_of(outcome) for outcome in self.outcomes(images, prompts)]

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """See ``refiner.protocols.Sorting``."""
        asked = [""] * len(images) if prompts is None else prompts
        found: list[Analysis | RefinerError] = _value(self._ask((images, asked)))
        return found


class SharedJudge(_Part):
    """A judge that several images ask together."""

    def __init__(self, seat: Seat, scores: Looks) -> None:
        super().__init__(seat, scores)
        self.name = scores.name

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [value_of(outcome) for outcome in self._outcomes(images, prompts)]

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Opinion]:
        """See ``refiner.protocols.Streaming``."""
        return [
            Opinion(None, outcome) if isinstance(outcome, RefinerError) else Opinion(outcome)
            for outcome in self._outcomes(images, prompts)
        ]

    def _outcomes(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | RefinerError]:
        found: list[float | RefinerError] = _value(self._ask((images, prompts)))
        return found


class SharedReviser(_Part):
    """A reviser that several images ask."""

    def __init__(self, seat: Seat, revisions: Revisions) -> None:
        super().__init__(seat, revisions)

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        return self._revision(lambda reviser: reviser.revise(prompt, history))

    def for_region(self, prompt: str, region: Region) -> Revision:
        return self._revision(lambda reviser: reviser.for_region(prompt, region))

    def _revision(self, work: Callable[[Reviser], Revision]) -> Revision:
        found: Revision = _value(self._ask(work))
        return found


class SharedPainter(_Part):
    """Generator and inpainter of an image; the rows of both are counted together."""

    def __init__(self, seat: Seat, images: Images, patches: Patches) -> None:
        super().__init__(seat, images)
        self._patches = patches
        self._remarks: list[str] = []

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        pictures: list[Image.Image] = _value(self._ask(jobs))
        return pictures

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        answer = self._ask(jobs, self._patches)
        self._remarks += answer.remarks
        pictures: list[Image.Image] = _value(answer)
        return pictures

    def remarks(self) -> list[str]:
        """Return the remarks about this image since the last call."""
        said, self._remarks = self._remarks, []
        return said
