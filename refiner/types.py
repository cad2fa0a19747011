"""The types that all packages of refiner share, with their units.

Images are ``PIL.Image.Image`` in mode RGB. Masks are bool arrays (H, W) at image resolution, True = flawed. Boxes are
``(x0, y0, x1, y1)`` in pixels, half-open: ``x1`` and ``y1`` are the first column and row outside the box. Severities,
confidences, probabilities and heat maps are in [0, 1]; severity 1 is the worst. All types are frozen and keyword-only.
They check their values at construction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Real
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadAnswerError, ConfigError
from refiner.patches import Candidates, difference, with_candidates
from refiner.repairs import Repair
from refiner.taxonomy import Category

if TYPE_CHECKING:
    from refiner.ledger import Ledger

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Action = Literal["generate", "given", "regenerate", "inpaint"]
StopReason = Literal[
    "clean", "rounds", "no_progress", "budget", "repeat", "unreadable", "interrupted", "failed", "unrefined"
]

StepOutcome = Literal["found", "confirmed", "rejected", "merged", "skipped", "unreadable"]
Gap = Literal["cut_short", "unverified"]
"""What an answer lacks: it ended at the limit of its tokens, or its flaws were not verified although they should be."""

UNVERIFIED: Final = "kept without verification"
"""Begins the reason of an attempt that was accepted whether it is better or not (``RefineConfig.keep="last"``)."""


class Size(NamedTuple):
    """Size of an image in pixels, height before width."""

    height: int
    width: int


def _check_unit(owner: str, name: str, value: float | None) -> None:
    if value is not None and not (isinstance(value, Real) and 0.0 <= value <= 1.0):
        raise BadAnswerError(f"{owner}.{name} must lie in [0, 1], got {value!r}.")


def _checked_size(owner: str, size: Size) -> Size:
    try:
        return Size(*map(operator.index, size))
    except TypeError as error:
        raise BadAnswerError(f"{owner}.size must be (height, width) in pixels, got {size!r:.80}.") from error


def _checked_box(owner: str, box: Box) -> Box:
    try:
        x0, y0, x1, y1 = map(operator.index, box)
    except (TypeError, ValueError) as error:
        raise BadAnswerError(f"{owner}.box must be four whole numbers (x0, y0, x1, y1), got {box!r:.80}.") from error
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise BadAnswerError(f"{owner}.box must be (x0, y0, x1, y1), 0 <= x0 < x1 and 0 <= y0 < y1, got {box}.")
    return x0, y0, x1, y1


def _checked_category(owner: str, category: Category | str) -> Category:
    """Return a category; a name in any vocabulary of the taxonomy is read."""
    try:
        return category if isinstance(category, Category) else Category.parse(category)
    except (ValueError, AttributeError) as error:
        near = get_close_matches(str(category).lower(), list(Category), n=1)
        hint = f"the nearest is {str(near[0])!r}" if near else "use one of these"
        raise BadAnswerError(
            f"{owner}.category must be one of {', '.join(Category)}, got {category!r:.80}: {hint}."
        ) from error


def _check_mask(owner: str, mask: Mask, size: Size | None = None) -> None:
    if not isinstance(mask, np.ndarray):
        raise BadAnswerError(f"{owner}.mask must be a numpy array, bool (H, W), got {type(mask).__name__}.")
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise BadAnswerError(f"{owner}.mask must be a bool array (H, W), got {mask.dtype} with shape {mask.shape}.")
    if size is not None and mask.shape != tuple(size):
        raise BadAnswerError(f"{owner}.mask must have the image's shape {tuple(size)}, got {mask.shape}.")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One flaw in words, as a model or a dataset describes it: fields as in ``Region``, None or empty if missing."""

    name: str = ""
    location: str = ""
    explanation: str = ""
    reasoning: str = ""
    category: Category | None = None
    severity: float | None = None
    score: float | None = None
    box: Box | None = None
    marks: tuple[int, ...] = ()
    """Indices, from 0, of the mask tokens in the model's answer that belong to this flaw; empty if there are none."""

    def __post_init__(self) -> None:
        _check_unit("Claim", "severity", self.severity)
        _check_unit("Claim", "score", self.score)
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box("Claim", self.box))
        if self.category is not None:
            object.__setattr__(self, "category", _checked_category("Claim", self.category))
        if any(mark < 0 for mark in self.marks):
            raise BadAnswerError(f"Claim.marks must count mask tokens from 0, got {self.marks}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """One flaw in an image: its place, description, reason, category and severity, and the detector's confidence.

    A region with neither mask nor box is unplaced: where it is in the image is not known. It is listed, counts in the
    burden, and is in no area.
    """

    mask: Mask | None
    """Bool (H, W) at image resolution, True = flawed; None if the detector gives no mask."""
    box: Box | None
    """The flaw's bounding box in pixels, half-open, inside the image and not empty; None for an unplaced region."""
    name: str
    """Short, such as "the left hand"."""
    location: str = ""
    """Where in the image, in words, such as "lower left"."""
    explanation: str = ""
    """What is wrong (the phenomenon)."""
    reasoning: str = ""
    """Why this is a flaw."""
    category: Category
    severity: float = 1.0
    """In [0, 1], 1 = worst."""
    score: float = 1.0
    """The detector's confidence, in [0, 1]."""

    def __post_init__(self) -> None:
        _check_unit("Region", "severity", self.severity)
        _check_unit("Region", "score", self.score)
        object.__setattr__(self, "category", _checked_category("Region", self.category))
        if self.mask is not None:
            _check_mask("Region", self.mask)
        if self.box is None:
            if self.mask is not None:
                raise BadAnswerError("Region.box must be given with its mask; without a place, both must be None.")
            return
        object.__setattr__(self, "box", _checked_box("Region", self.box))
        if self.mask is not None:
            height, width = self.mask.shape
            if self.box[2] > width or self.box[3] > height:
                raise BadAnswerError(f"Region.box must lie inside its mask of {width}x{height}, got {self.box}.")

    @property
    def placed(self) -> bool:
        """Whether it is known where in the image the flaw is."""
        return self.box is not None

    def pixels(self, size: Size) -> Mask:
        """The mask, or the filled box if there is no mask; bool (H, W) of ``size``, all False if unplaced."""
        if self.mask is not None:
            return self.mask
        filled = np.zeros(tuple(size), dtype=np.bool_)
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            filled[y0:y1, x0:x1] = True
        return filled


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of a detector with several steps did, such as a flaw that it found, or one that it rejected."""

    stage: str
    """The part of the detector that did it, such as "AttributeAnalyzer"."""
    subject: str
    """What it looked at, such as "the left hand"."""
    outcome: StepOutcome
    """``skipped``: it was not looked at; ``unreadable``: the model gave no answer, or one that cannot be read."""
    text: str = ""
    """What was found, confirmed, rejected or merged, in words; the answer if that is unreadable."""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in get_args(StepOutcome):
            known = ", ".join(get_args(StepOutcome))
            raise BadAnswerError(f"Step.outcome must be one of {known}, got {self.outcome!r:.80}.")
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise BadAnswerError(f"Step.{name} must be a text, got {value!r:.80}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """The result of a detector for one image."""

    size: Size
    regions: tuple[Region, ...] = ()
    fake_probability: float | None = None
    """Probability that the image is generated, in [0, 1]; None if the detector does not give one, or leaves it open."""
    heatmap: NDArray[np.float32] | None = None
    """Float (H, W) in [0, 1], or None."""
    tags: tuple[str, ...] = ()
    raw: str = ""
    """The text that the model wrote."""
    detector: str
    """Id and revision of the detector."""
    trace: tuple[Step, ...] = ()
    """The steps that led to the regions, in order; empty for detectors that look only once."""
    gaps: tuple[Gap, ...] = ()
    """What the answer lacks; each at most once (see ``refiner.coverage``)."""

    def __post_init__(self) -> None:
        _check_unit("Analysis", "fake_probability", self.fake_probability)
        object.__setattr__(self, "size", _checked_size("Analysis", self.size))
        known = get_args(Gap)
        if any(gap not in known or self.gaps.count(gap) > 1 for gap in self.gaps):
            raise BadAnswerError(
                f"Analysis.gaps must be of {', '.join(known)}, each at most once, got {self.gaps!r:.80}."
            )
        for region in self.regions:
            if not isinstance(region, Region):
                raise BadAnswerError(f"Analysis.regions must be Regions, got {region!r:.80}.")
            if region.mask is not None:
                _check_mask("Analysis.regions", region.mask, self.size)
            if region.box and (region.box[2] > self.size.width or region.box[3] > self.size.height):
                raise BadAnswerError(
                    f"Analysis.regions must lie inside the image of {self.size}, got box {region.box}."
                )
        for step in self.trace:
            if not isinstance(step, Step):
                raise BadAnswerError(f"Analysis.trace must be Steps, got {step!r:.80}.")
        if self.heatmap is not None and self.heatmap.shape != tuple(self.size):
            raise BadAnswerError(f"Analysis.heatmap must have shape {tuple(self.size)}, got {self.heatmap.shape}.")

    @property
    def mask(self) -> Mask:
        """Union of the regions' masks, bool (H, W)."""
        union = np.zeros(tuple(self.size), dtype=np.bool_)
        for region in self.regions:
            union |= region.pixels(self.size)
        return union

    @property
    def artifact_ratio(self) -> float:
        """Share of flawed pixels, in [0, 1] (PAR in X-AIGD). Unplaced regions are in no area."""
        return float(self.mask.mean())

    @property
    def known_ratio(self) -> float | None:
        """The ``artifact_ratio``; None if there are regions, and the place of none is known."""
        placed = [region for region in self.regions if region.placed]
        return self.artifact_ratio if placed or not self.regions else None

    @property
    def perceptual(self) -> Analysis:
        """The same without misalignments with the prompt, as most metrics see it."""
        regions = tuple(region for region in self.regions if region.category is not Category.MISALIGNMENT)
        return self if len(regions) == len(self.regions) else replace(self, regions=regions)

    @property
    def burden(self) -> float:
        """Sum of severity times confidence over the regions; 0 for a clean image. Lower is better."""
        return float(sum(region.severity * region.score for region in self.regions))


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one image."""

    name: str
    value: float
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The cost of an attempt: the work of the networks."""

    denoiser_rows: int = 0
    """Batch rows through the denoiser, those of guidance included: the batch size summed over all forward passes."""
    detector_calls: int = 0
    """Images that the detector analysed."""

    def __add__(self, other: Calls) -> Calls:
        return Calls(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One step of the refinement loop: the image, its analysis, and whether it was accepted."""

    index: int
    number: int = 0
    """Number of the image in its call, from 0."""
    action: Action
    prompt: str
    """The prompt that this image was generated from: the user's prompt or a revised one."""
    negative_prompt: str = ""
    seed: int
    image: Image.Image | None
    """None if the model did not generate an image (see ``error``)."""
    analysis: Analysis | None
    """None if the image could not be analysed (see ``error``)."""
    scores: tuple[Score, ...] = ()
    accepted: bool
    """Whether this image became the best so far; without verification, whether it replaced the one before."""
    reason: str
    """Why it was accepted or rejected, in words."""
    note: str = ""
    """Other information for the user, for example about the revised prompt or a lack of memory; empty if none."""
    painted: Mask | None = None
    """Pixels that differ from the image it was made from (inpainting only), bool (H, W)."""
    error: str | None = None
    """The message of the model error; None if there was no error."""
    seconds: float = 0.0
    calls: Calls = field(default_factory=Calls)
    candidates: tuple[Candidates, ...] = ()
    """All that was painted for each patch, if it was to be kept (``RefineConfig.keep_candidates``)."""
    repairs: tuple[Repair, ...] = ()
    """What this attempt tried to repair, by which tool, and whether that was kept; empty for the first image."""
    choice: Mapping[int, int] = field(default_factory=dict)
    """What was picked by hand to make this image (see ``RefinementResult.with_choice``); empty if the loop made it."""

    @property
    def by(self) -> Literal["loop", "hand"]:
        """Who chose what this image shows."""
        return "hand" if self.choice else "loop"


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementResult:
    """All attempts for one prompt, and which of them was kept."""

    prompt: str
    attempts: tuple[Attempt, ...]
    best: int
    """Index into ``attempts`` of the image that was kept."""
    stop: StopReason
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings of the run, as plain JSON values (``refiner.pipelines.saving.record``); empty if not known."""
    costs: Mapping[str, Ledger] = field(default_factory=dict)
    """What the chat models of its parts did meanwhile, by model; runs at the same time that share them count too."""
    verify: Callable[[Attempt, Attempt], Attempt] | None = field(default=None, repr=False)
    """Analyses and judges the image of the first attempt, and compares it with the second; None: the parts are gone."""

    def __post_init__(self) -> None:
        if not 0 <= self.best < len(self.attempts):
            raise ConfigError(f"RefinementResult.best must index {len(self.attempts)} attempts, got {self.best}.")

    @property
    def image(self) -> Image.Image:
        """The image that was kept."""
        image = self.attempts[self.best].image
        if image is None:
            raise ConfigError("RefinementResult.best must name an attempt that has an image.")
        return image

    @property
    def verified(self) -> bool:
        """Whether an image was kept only if it was better; False with ``RefineConfig.keep="last"``."""
        return not any(attempt.reason.startswith(UNVERIFIED) for attempt in self.attempts)

    @property
    def history(self) -> Sequence[Image.Image]:
        """The images of all attempts that have one, in order."""
        return [attempt.image for attempt in self.attempts if attempt.image is not None]

    @property
    def calls(self) -> Calls:
        """The cost of all attempts together."""
        return sum((attempt.calls for attempt in self.attempts), Calls())

    @property
    def candidates(self) -> tuple[Candidates, ...]:
        """The patches of the kept image with all their candidates, from all rounds; see ``with_choice``.

        Those of images that were replaced by a regenerated one are not among them.
        """
        origin = self._origin(self.best)
        return tuple(
            patch
            for attempt in self.attempts
            if attempt.candidates and self._origin(attempt.index) == origin
            for patch in attempt.candidates
        )

    def _origin(self, index: int) -> int:
        """The attempt whose image was inpainted, in one or several steps, to make that of another."""
        whole = (one.index for one in self.attempts[: index + 1] if one.accepted and one.painted is None)
        return max(whole, default=0)

    def with_choice(self, choice: Mapping[int, int]) -> RefinementResult:
        """Pick candidates by hand: paste them into the kept image, and look at it as the loop did.

        The picked image is a further attempt, whose ``reason`` says what detector and judge say about it. It is kept,
        also if they find it worse, unless it cannot be analysed and judged. Outside the masks it is the kept image.

        Args:
            choice: index in ``candidates`` -> index of one of its images.

        Returns:
            A new result; this one is not changed.

        Raises:
            ConfigError: there are no candidates, no such region or candidate, or two chosen regions overlap.
        """
        offered = self.candidates
        if self.verify is None or not offered:
            raise ConfigError(
                "This result has no candidates to choose from: pass keep_candidates=True to the call that makes it."
            )
        kept, choice = self.attempts[self.best], dict(choice)
        image = with_candidates(self.image, offered, choice)
        first, number = next(iter(choice.items()))
        source = next(one for one in self.attempts if any(each is offered[first] for each in one.candidates))
        draft = replace(
            source, index=len(self.attempts), seed=offered[first].seeds[number], image=image, note="",
            painted=difference(image, self.image), candidates=(), choice=choice, repairs=(),
        )  # fmt: skip
        attempt = self.verify(draft, kept)
        best = attempt.index if attempt.accepted else self.best
        return replace(self, attempts=(*self.attempts, attempt), best=best)

    def save(self, folder: str) -> Mapping[str, str]:
        """Write the images, the contact sheet, ``report.html`` and ``run.json`` into ``folder``.

        Returns:
            Name -> path of each file.

        Raises:
            OutputError: the folder cannot be written; no partly written file is left.
        """
        from refiner.reports.result import save_result

        return save_result(self, folder)
