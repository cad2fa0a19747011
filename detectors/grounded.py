"""Detectors that ask a chat model for flaws with boxes, and a grounder for masks: the steps they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from PIL import Image

from refiner.answers import value_of
from refiner.claims import region_of
from refiner.detectors.base import check_domain, one_for_each
from refiner.detectors.chat.backend import (
    ChatBackend,
    ChatReply,
    ChatRequest,
    Loaded,
    Outcome,
    Served,
)
from refiner.detectors.chat.images import shown_picture
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_format, known_format
from refiner.errors import OversizeError, RefinerError
from refiner.hub import read_card, verify
from refiner.ledger import Ledger
from refiner.protocols import Concurrent, Movable
from refiner.types import Analysis, Claim, Gap, Size, Step

if TYPE_CHECKING:
    import torch

DEFAULT_GROUNDER = "grabcut"
"""Needs no weights; ``Analysis.raw`` and the detector's name say that it is used."""


LEAST_SIDE = 224
"""Longest side, in pixels, below which an image is not shrunk for a server that takes only small requests."""
_SHRINKING = 0.7


@dataclass
class Case:
    """The state of one image during the analysis."""

    image: Image.Image
    prompt: str
    shown: Image.Image = field(init=False)
    """The image as shown to the model."""
    found: list[Claim] = field(default_factory=list)
    fake: float | None = None
    """Probability that the image is generated, in [0, 1]; None if the model does not say."""
    tags: tuple[str, ...] = ()
    raw: str = ""
    trace: list[Step] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    """As in ``Analysis``; each may be there several times."""
    outcome: Analysis | RefinerError | None = None

    @property
    def size(self) -> Size:
        """Of the image."""
        return Size(self.image.height, self.image.width)

    @property
    def shown_size(self) -> Size:
        """Of the image as shown to the model."""
        return Size(self.shown.height, self.shown.width)


class GroundedDetector(ABC):
    """A chat model that names flaws with boxes, and a grounder that makes masks; a ``refiner.protocols.Detector``.

    A subclass asks the model (``_find``). A region without a usable box is unplaced (mask and box None). An error
    replaces only the analysis of its own image.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        boxes: how the model writes boxes.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
        max_side: longest side of the images shown to the model, in pixels, if less than that of the backend.
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        boxes: BoxFormat,
        domain: str = "",
        max_side: int | None = None,
    ) -> None:
        self.backend, self.grounder, self.boxes, self.domain = backend, grounder, boxes, domain
        self.max_side = min(max_side or backend.max_side, backend.max_side)

    @property
    @abstractmethod
    def name(self) -> str:
        """The model, how it is asked, and the grounder; a fallback grounder is named as such."""

    @property
    def model_name(self) -> str:
        """The name of the model, with the settings of its endpoint that decide its answers."""
        manner = self.backend.manner if isinstance(self.backend, Served) else ""
        return f"{self.backend.name} ({manner})" if manner else self.backend.name

    @abstractmethod
    def _find(self, cases: Sequence[Case]) -> None:
        """Ask the model about the images, and set ``found``, ``raw`` and what else is known, or the error."""

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Find the flaws in one image, which is scaled down to ``max_side`` for the model.

        Raises:
            OutOfDomainError: the model knows only the micro world, and this is not an image of it.
            UnreadableOutputError: the answer is neither a list of flaws nor clearly a statement that there are none.
            ModelError: there was no answer.
            UserError: the backend cannot be used, for example because its key is missing.
        """
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse several images; the results are the same as with one call for each image.

        The requests for all images go to the backend together.

        Raises:
            RefinerError: the error of the first image that failed, as for one image. Use ``outcomes`` to keep the
                analyses of the other images.
        """
        return [value_of(outcome) for outcome in self.outcomes(images, prompts)]

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """Like ``batch``, but return the error of each image that failed instead of its analysis.

        Raises:
            ConfigError: the numbers of images and prompts differ.
        """
        cases = [Case(image, prompt) for image, prompt in zip(images, one_for_each(images, prompts), strict=True)]
        self._each(self._show, cases)
        self._find(_going_on(cases))
        self._each(self._draw, cases)
        return [case.outcome for case in cases if case.outcome is not None]

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the model, by its name."""
        return {self.backend.name: self.backend.ledger}

    @property
    def concurrency(self) -> int:
        """Number of requests that may be under way at the same time; 1 for a model on this machine."""
        return self.backend.concurrency if isinstance(self.backend, Concurrent) else 1

    def to(self, device: str | torch.device) -> Self:
        """Move the networks of model and grounder that run on this machine."""
        for part in (self.backend, self.grounder):
            if isinstance(part, Movable):
                part.to(device)
        return self

    def _ask(
        self, cases: Sequence[Case], make: Callable[[Case], ChatRequest], take: Callable[[Case, ChatReply], None]
    ) -> None:
        """Make a request about each image, send all together, and take the replies; errors become the outcome."""
        for case, outcome in zip(cases, self._complete(cases, make), strict=True):
            try:
                reply = value_of(outcome)
                case.gaps += ["cut_short"] if reply.finish == "length" else []
                take(case, reply)
            except RefinerError as error:
                case.outcome = error

    def _complete(self, cases: Sequence[Case], make: Callable[[Case], ChatRequest]) -> list[Outcome]:
        """Send a request about each image; where the images are too large for the server, smaller ones are shown."""
        return complete_shown(self.backend, cases, lambda place: make(cases[place]), self.shrink)

    def shrink(self, case: Case) -> bool:
        """Show a smaller image from now on; False if it would be too small to see anything."""
        side = int(_SHRINKING * max(case.shown.size))
        if side < LEAST_SIDE:
            return False
        case.shown = self._shown(case, side)
        return True

    def _each(self, step: Callable[[Case], None], cases: Sequence[Case]) -> None:
        for case in _going_on(cases):
            try:
                step(case)
            except RefinerError as error:
                case.outcome = error

    def _show(self, case: Case) -> None:
        check_domain(self.domain, case.image)
        case.shown = self._shown(case, self.max_side)

    def _shown(self, case: Case, side: int) -> Image.Image:
        limits = self.backend.pixel_limits if isinstance(self.backend, Loaded) else None
        return shown_picture(case.image, side, self.boxes, limits)

    def _draw(self, case: Case) -> None:
        boxes = [region.box for region in case.found if region.box is not None]
        segments = self.grounder.segment(case.image, boxes=boxes) if boxes else []
        if segments:
            case.raw += f"\n\nMasks by {self.grounder.name}: {', '.join(segment.source for segment in segments)}"
        drawn = iter(segments)
        masks = [None if claim.box is None else next(drawn).mask for claim in case.found]
        regions = [region_of(claim, mask, case.size) for claim, mask in zip(case.found, masks, strict=True)]
        case.outcome = Analysis(
            size=case.size,
            regions=tuple(regions),
            fake_probability=case.fake,
            tags=case.tags,
            raw=case.raw,
            detector=self.name,
            trace=tuple(case.trace),
            gaps=tuple(dict.fromkeys(case.gaps)),
        )


def complete_shown(
    backend: ChatBackend,
    cases: Sequence[Case],
    make: Callable[[int], ChatRequest],
    shrink: Callable[[Case], bool],
) -> list[Outcome]:
    """Send a request about each case, and again with a smaller image where it was too large for the server.

    Args:
        backend: the model.
        cases: an image may be in it several times.
        make: makes the request about the case at a place, with its image as it is then shown.
        shrink: makes the shown image of a case smaller; returns False if it must not be.
    """
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(cases)))
    while waiting:
        shown = {place: cases[place].shown for place in waiting}
        outcomes |= zip(waiting, backend.complete([make(place) for place in waiting]), strict=True)
        waiting = [
            place
            for place in waiting
            if isinstance(outcomes[place], OversizeError)
            and (cases[place].shown is not shown[place] or shrink(cases[place]))
        ]
    return [outcomes[place] for place in range(len(cases))]


def kind_of(chat: ChatBackend) -> str:
    """The type of a chat model on this machine, the name of one behind an endpoint.

    If that name does not say how the model writes boxes, the server is asked for its other names, which are appended.
    """
    if isinstance(chat, Loaded):
        return chat.kind
    if isinstance(chat, Served) and known_format(chat.name) is None:
        return " ".join((chat.name, *chat.known_as()))
    return chat.name


def boxes_of(chat: ChatBackend, told: str | Path | None = None) -> BoxFormat:
    """How a chat model writes boxes: as its type or name says, changed as ``told`` (``BoxFormat.parse``) says.

    Raises:
        ConfigError: there is no such scale or order.
    """
    usual = box_format(kind_of(chat))
    return usual if told is None else BoxFormat.parse(str(told), usual)


def domain_of(chat: ChatBackend) -> str:
    """The domain of a chat model, by the first card in its folders; the checksums in all cards are checked.

    Raises:
        WeightsError: a card cannot be read, or the weights do not match it.
    """
    folders = chat.folders if isinstance(chat, Loaded) else ()
    carded = [folder for folder in folders if (folder / "card.json").exists()]
    for folder in carded:
        verify(folder)
    return read_card(carded[0]).domain if carded else ""


def _going_on(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.outcome is None]
