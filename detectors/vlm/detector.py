"""Any vision-language model as a detector: asked for flaws in words and boxes, asked again about each, then drawn.

The model is a ``ChatBackend``, here or behind an endpoint; the masks come from a ``Grounder``. What is asked is
written in ``refiner.detectors.vlm.questions``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from refiner.detectors.base import check_domain, identity, one_for_each
from refiner.detectors.chat.backend import ChatBackend, ChatReply, Outcome
from refiner.detectors.chat.images import fit_picture
from refiner.detectors.chat.loading import load_chat
from refiner.detectors.claims import region_of
from refiner.detectors.grounding import load_grounder
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.questions import box_format, finding, read_verdicts, verifying
from refiner.errors import RefinerError
from refiner.hub import verify
from refiner.types import Analysis, Claim, Size

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"
DEFAULT_GROUNDER = "grabcut"
"""Needs no weights; ``Analysis.raw`` and the detector's name say so."""
_PATCH = 28
"""Models that count in pixels see pictures whose sides are multiples of this (Qwen2.5-VL), and at least two of it."""


class VlmDetector:
    """A vision-language model and a grounder; satisfies ``refiner.protocols.Detector``.

    Two-step: the model lists whatever may be a flaw, then is shown its own list and judges it item by item, all in one
    request for each picture. A region is dropped only where it is clearly denied; its ``score`` is the probability
    that the second answer gives. Where that answer fails or cannot be read, the regions stay as they were found, and
    ``raw`` says so. One-step: ``score`` is the confidence of the first answer.

    A region whose box is missing or not sure is kept, with mask None and the whole picture as its box. ``raw`` holds
    the model's answers, and who drew each mask. No verdict real or fake is given.

    Args:
        backend: the model.
        grounder: turns boxes into masks; it sees each picture once, and only those with a box.
        boxes: how the model writes boxes; None: as its name tells (``box_format``).
        two_step: whether to verify.
        domain: "micro" for a model that knows only the micro world and must refuse other pictures; else "".
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
        """Model, steps, and the grounder, which says where it is a fallback."""
        return f"vlm:{self.backend.name}, {'two-step' if self.two_step else 'one-step'}, masks by {self.grounder.name}"

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """What is wrong with one picture.

        Args:
            image: any size; the model is shown it scaled down to ``backend.max_side``.
            prompt: what the picture was to show; told to the model as data.

        Raises:
            OutOfDomainError: the model knows only the micro world, and this is no picture of it.
            UnreadableOutputError: the answer neither names regions nor clearly says that there are none.
            ModelError: no answer came.
            UserError: the backend cannot be used so, for example for want of a key.
        """
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """The same answers as one call each; the requests of all pictures go to the backend together.

        Raises:
            RefinerError: as for one picture; the first picture's that failed. ``outcomes`` loses no other's analysis.
        """
        analyses = []
        for outcome in self.outcomes(images, prompts):
            if isinstance(outcome, RefinerError):
                raise outcome
            analyses.append(outcome)
        return analyses

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """As ``batch``, but an error takes the place of the analysis of each picture that failed.

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

    def _each(self, step: Callable[[_Case], None], cases: Sequence[_Case]) -> None:
        for case in _going_on(cases):
            try:
                step(case)
            except RefinerError as error:
                case.outcome = error

    def _show(self, case: _Case) -> None:
        check_domain(self.domain, case.image)
        case.shown = self._shown(case.image)

    def _find(self, cases: Sequence[_Case]) -> None:
        """Ask for all flaws of each picture."""
        questions = [finding(case.shown, case.prompt, self.boxes, thorough=self.two_step) for case in cases]
        outcomes = self.backend.complete(questions) if questions else []
        for case, outcome in zip(cases, outcomes, strict=True):
            try:
                case.raw = _answer(outcome).text
                shown = Size(case.shown.height, case.shown.width)
                case.found = read_regions(case.raw, case.size, boxes=self.boxes, shown=shown)
            except RefinerError as error:
                case.outcome = error

    def _verify(self, cases: Sequence[_Case]) -> None:
        """Ask about the regions found, drop those denied, and note the answers."""
        questions = [verifying(case.shown, case.found, case.size, self.boxes, case.prompt) for case in cases]
        outcomes = self.backend.complete(questions) if questions else []
        for case, outcome in zip(cases, outcomes, strict=True):
            try:
                answer = _answer(outcome)
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
        """Ask for the masks, and put all together."""
        boxes = [region.box for region in case.found if region.box is not None]
        segments = self.grounder.segment(case.image, boxes=boxes) if boxes else []
        if segments:
            case.raw += f"\n\nMasks by {self.grounder.name}: {', '.join(segment.source for segment in segments)}"
        drawn = iter(segments)
        masks = [None if claim.box is None else next(drawn).mask for claim in case.found]
        regions = [region_of(claim, mask, case.size) for claim, mask in zip(case.found, masks, strict=True)]
        case.outcome = Analysis(size=case.size, regions=tuple(regions), raw=case.raw, detector=self.name)

    def _shown(self, image: Image.Image) -> Image.Image:
        """The picture as the model sees it: nothing on the way may scale it further where boxes count its pixels."""
        picture = fit_picture(image, self.backend.max_side)
        if self.boxes.scale != "pixels":
            return picture
        most = max(2, self.backend.max_side // _PATCH)
        width, height = (_PATCH * min(most, max(2, round(side / _PATCH))) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC)


def load_vlm(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    cache: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VlmDetector:
    """A two-step ``VlmDetector`` by the names of its parts.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, what the server calls the model.
        base_url: of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs here.
        grounder: id for ``load_grounder``.
        cache: folder that keeps an endpoint's answers.
        device: None takes CUDA where there is one; of the model here and of the grounder.
        dtype: None takes float32 on a CPU, elsewhere the checkpoint's own.

    Raises:
        ModelNotFoundError, WeightsError: an unknown or damaged model or grounder.
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: an address with a key in it, or a cache for a model that runs here.
    """
    options = {} if cache is None else {"cache": str(cache)}
    chat = load_chat(ModelId(model=str(model), base_url=base_url, options=options), device=device, dtype=dtype)
    network = None if base_url is not None else cast(Any, chat).model
    return VlmDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        boxes=box_format(str(model) if network is None else str(network.config.model_type)),
        domain="" if network is None else _domain(Path(network.name_or_path)),
    )


def _domain(folder: Path) -> str:
    """The images that a model knows, by its card, whose checksums are checked; "" where it has none."""
    if (folder / "card.json").exists():
        verify(folder)
    return identity(folder, "vlm").domain


@dataclass
class _Case:
    """What is known of one picture so far."""

    image: Image.Image
    prompt: str
    shown: Image.Image = field(init=False)
    """As the model sees it."""
    found: list[Claim] = field(default_factory=list)
    raw: str = ""
    outcome: Analysis | RefinerError | None = None

    @property
    def size(self) -> Size:
        return Size(self.image.height, self.image.width)


def _going_on(cases: Sequence[_Case]) -> list[_Case]:
    return [case for case in cases if case.outcome is None]


def _answer(outcome: Outcome) -> ChatReply:
    if isinstance(outcome, RefinerError):
        raise outcome
    return outcome
