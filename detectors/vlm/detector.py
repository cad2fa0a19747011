"""A detector with any vision-language model: the model lists flaws with boxes, verifies each, then masks are made.

The model is a ``ChatBackend``, on this machine or behind an endpoint. The masks come from a ``Grounder``. The texts of
the requests are in ``refiner.detectors.vlm.questions``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from PIL import Image

from refiner.claims import region_of
from refiner.detectors.base import check_domain, identity, one_for_each
from refiner.detectors.chat.backend import ChatBackend
from refiner.detectors.chat.images import shown_picture
from refiner.detectors.chat.loading import chat_needs, load_chat
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.questions import box_format, finding, read_verdicts, verifying
from refiner.errors import RefinerError
from refiner.hub import verify
from refiner.protocols import Movable
from refiner.types import Analysis, Claim, Size

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

T = TypeVar("T")

DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"
DEFAULT_GROUNDER = "grabcut"
"""Needs no weights; ``Analysis.raw`` and the detector's name say that it is used."""


class VlmDetector:
    """A vision-language model and a grounder; a ``refiner.protocols.Detector``.

    Two-step: the model lists all possible flaws. Then it gets its own list, and verifies all items in one request for
    each image. A region is dropped only if the model clearly denies it. Its ``score`` is the probability in the second
    answer. If this answer fails or cannot be read, the regions stay as they are, and ``raw`` says so.

    One-step: ``score`` is the confidence in the first answer.

    A region with a missing or unreliable box is kept as an unplaced region (mask and box None). ``raw`` holds the
    model's answers and the source of each mask. ``fake_probability`` is None.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        boxes: how the model writes boxes; None: chosen by the model's name (``box_format``).
        two_step: whether the model verifies its list of flaws.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        boxes: BoxFormat | None = None,
        two_step: bool = True,
        domain: str = "",
    ) -> None:
        self.backend, self.grounder, self.two_step, self.domain = backend, grounder, two_step, domain
        self.boxes = boxes or box_format(backend.name)

    @property
    def name(self) -> str:
        """Model, number of steps, and grounder; a fallback grounder is named as such."""
        return f"vlm:{self.backend.name}, {'two-step' if self.two_step else 'one-step'}, masks by {self.grounder.name}"

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Find the flaws in one image, which is scaled down to ``backend.max_side`` for the model.

        Raises:
            OutOfDomainError: the model knows only the micro world, and this is not an image of it.
            UnreadableOutputError: the answer neither names regions nor clearly says that there are none.
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
        return [_value(outcome) for outcome in self.outcomes(images, prompts)]

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """Like ``batch``, but return the error of each image that failed instead of its analysis.

        Raises:
            ConfigError: the numbers of images and prompts differ.
        """
        cases = [_Case(image, prompt) for image, prompt in zip(images, one_for_each(images, prompts), strict=True)]
        self._each(self._show, cases)
        self._find(_going_on(cases))
        if self.two_step:
            self._verify([case for case in _going_on(cases) if case.found])
        self._each(self._draw, cases)
        return [case.outcome for case in cases if case.outcome is not None]

    def to(self, device: str | torch.device) -> VlmDetector:
        """Move the networks of model and grounder that run on this machine."""
        for part in (self.backend, self.grounder):
            if isinstance(part, Movable):
                part.to(device)
        return self

    def _each(self, step: Callable[[_Case], None], cases: Sequence[_Case]) -> None:
        for case in _going_on(cases):
            try:
                step(case)
            except RefinerError as error:
                case.outcome = error

    def _show(self, case: _Case) -> None:
        check_domain(self.domain, case.image)
        case.shown = shown_picture(case.image, self.backend.max_side, self.boxes)

    def _find(self, cases: Sequence[_Case]) -> None:
        questions = [finding(case.shown, case.prompt, self.boxes, thorough=self.two_step) for case in cases]
        outcomes = self.backend.complete(questions) if questions else []
        for case, outcome in zip(cases, outcomes, strict=True):
            try:
                case.raw = _value(outcome).text
                shown = Size(case.shown.height, case.shown.width)
                case.found = read_regions(case.raw, case.size, boxes=self.boxes, shown=shown)
            except RefinerError as error:
                case.outcome = error

    def _verify(self, cases: Sequence[_Case]) -> None:
        """Ask the model to verify the regions, drop the denied ones, and add the answers to ``raw``."""
        questions = [verifying(case.shown, case.found, case.size, self.boxes, case.prompt) for case in cases]
        outcomes = self.backend.complete(questions) if questions else []
        for case, outcome in zip(cases, outcomes, strict=True):
            try:
                answer = _value(outcome)
                verdicts = read_verdicts(answer.text, case.found)
            except RefinerError as error:
                case.raw += f"\n\nNot verified: {error}"
                continue
            case.raw += f"\n\nVerified:\n{answer.text}"
            case.found = [
                replace(region, score=round(score, 6))
                for region, score in zip(case.found, verdicts, strict=True)
                if score is not None
            ]

    def _draw(self, case: _Case) -> None:
        boxes = [region.box for region in case.found if region.box is not None]
        segments = self.grounder.segment(case.image, boxes=boxes) if boxes else []
        if segments:
            case.raw += f"\n\nMasks by {self.grounder.name}: {', '.join(segment.source for segment in segments)}"
        drawn = iter(segments)
        masks = [None if claim.box is None else next(drawn).mask for claim in case.found]
        regions = [region_of(claim, mask, case.size) for claim, mask in zip(case.found, masks, strict=True)]
        case.outcome = Analysis(size=case.size, regions=tuple(regions), raw=case.raw, detector=self.name)


def load_vlm(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    cache: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VlmDetector:
    """Load a two-step ``VlmDetector``.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model; ""
            selects ``DEFAULT_MODEL``.
        base_url: address of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs on
            this machine.
        grounder: id for ``load_grounder``.
        cache: folder that stores an endpoint's answers.
        device, dtype: of the grounder and of a model on this machine, as for ``load_detector``.

    Raises:
        RefinerError: the errors of ``load_chat`` and ``load_grounder``.
    """
    model = str(model) or DEFAULT_MODEL
    options = {} if cache is None else {"cache": str(cache)}
    chat = load_chat(ModelId(model=model, base_url=base_url, options=options), device=device, dtype=dtype)
    network = None if base_url is not None else cast(Any, chat).model
    return VlmDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        boxes=box_format(model if network is None else str(network.config.model_type)),
        domain="" if network is None else _domain(Path(network.name_or_path)),
    )


def vlm_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_vlm`` reads; raises its errors that are known without a download."""
    grounder = model.options.get("grounder", DEFAULT_GROUNDER)
    options = {name: value for name, value in model.options.items() if name != "grounder"}
    chat = replace(model, model=model.model or DEFAULT_MODEL, options=options)
    return [*chat_needs(chat), *grounder_needs(grounder)]


def _domain(folder: Path) -> str:
    """Read the domain of a model from its card, and check the checksums in it; "" without a card."""
    if (folder / "card.json").exists():
        verify(folder)
    return identity(folder, "vlm").domain


@dataclass
class _Case:
    """The state of one image during the analysis."""

    image: Image.Image
    prompt: str
    shown: Image.Image = field(init=False)
    """The image as shown to the model."""
    found: list[Claim] = field(default_factory=list)
    raw: str = ""
    outcome: Analysis | RefinerError | None = None

    @property
    def size(self) -> Size:
        return Size(self.image.height, self.image.width)


def _going_on(cases: Sequence[_Case]) -> list[_Case]:
    return [case for case in cases if case.outcome is None]


def _value(outcome: T | RefinerError) -> T:
    if isinstance(outcome, RefinerError):
        raise outcome
    return outcome
