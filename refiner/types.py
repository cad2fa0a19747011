"""The few types that every room shares, with their units.

Images are ``PIL.Image.Image`` in mode RGB. Masks are bool arrays (H, W) at image resolution, True = flawed. Boxes are
``(x0, y0, x1, y1)`` in pixels, half-open: ``x1`` and ``y1`` are the first column and row outside. Severities,
confidences, probabilities and heat maps lie in [0, 1]; severity 1 is worst. Every type is frozen and keyword-only,
and checks itself at construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadAnswerError, ConfigError
from refiner.taxonomy import Category

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Action = Literal["generate", "given", "regenerate", "inpaint"]
StopReason = Literal["clean", "rounds", "no_progress", "budget", "repeat", "unreadable", "interrupted"]


class Size(NamedTuple):
    """Height before width, in pixels."""

    height: int
    width: int


def _check_unit(owner: str, name: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise BadAnswerError(f"{owner}.{name} must lie in [0, 1], got {value!r}.")


def _check_box(owner: str, box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise BadAnswerError(f"{owner}.box must be (x0, y0, x1, y1), 0 <= x0 < x1 and 0 <= y0 < y1, got {box}.")


def _check_mask(owner: str, mask: Mask, size: Size | None = None) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise BadAnswerError(f"{owner}.mask must be a bool array (H, W), got {mask.dtype} with shape {mask.shape}.")
    if size is not None and mask.shape != tuple(size):
        raise BadAnswerError(f"{owner}.mask must have the image's shape {tuple(size)}, got {mask.shape}.")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One flaw in words, as a model or a data set tells of it. What it does not tell is None, or an empty text."""

    name: str = ""
    """Short, such as "the left hand"."""
    location: str = ""
    """Where in the image, in words, such as "lower left"."""
    explanation: str = ""
    """What is wrong (the phenomenon)."""
    reasoning: str = ""
    """Why it cannot be."""
    category: Category | None = None
    severity: float | None = None
    """In [0, 1], 1 = worst."""
    score: float | None = None
    """The model's confidence, in [0, 1]."""
    box: Box | None = None
    """Pixels of the image, half-open and not empty."""
    marks: tuple[int, ...] = ()
    """Which of the answer's mask tokens, counted from 0, draw it; empty where none does."""

    def __post_init__(self) -> None:
        _check_unit("Claim", "severity", self.severity)
        _check_unit("Claim", "score", self.score)
        if self.box is not None:
            _check_box("Claim", self.box)
        if any(mark < 0 for mark in self.marks):
            raise BadAnswerError(f"Claim.marks must count mask tokens from 0, got {self.marks}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """One flaw: where it is, what is wrong, why, of which kind, how bad, and how sure the detector is."""

    mask: Mask | None
    """Bool (H, W) at image resolution, True = flawed; None where the detector gives none."""
    box: Box
    """The flaw's bounding box in pixels, half-open, inside the image and not empty."""
    name: str
    """Short, such as "the left hand"."""
    location: str = ""
    """Where in the picture, in words, such as "lower left"."""
    explanation: str = ""
    """What is wrong (the phenomenon)."""
    reasoning: str = ""
    """Why it cannot be."""
    category: Category
    severity: float = 1.0
    """In [0, 1], 1 = worst."""
    score: float = 1.0
    """The detector's confidence, in [0, 1]."""

    def __post_init__(self) -> None:
        _check_unit("Region", "severity", self.severity)
        _check_unit("Region", "score", self.score)
        _check_box("Region", self.box)
        if self.mask is not None:
            _check_mask("Region", self.mask)
            height, width = self.mask.shape
            if self.box[2] > width or self.box[3] > height:
                raise BadAnswerError(f"Region.box must lie inside its mask of {width}x{height}, got {self.box}.")

    def pixels(self, size: Size) -> Mask:
        """The mask, or the filled box where there is none; bool (H, W) of ``size``."""
        if self.mask is not None:
            return self.mask
        filled = np.zeros(tuple(size), dtype=np.bool_)
        x0, y0, x1, y1 = self.box
        filled[y0:y1, x0:x1] = True
        return filled


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What a detector says of one image."""

    size: Size
    regions: tuple[Region, ...] = ()
    fake_probability: float | None = None
    """Probability that the image is generated, in [0, 1]; None where the detector gives no verdict."""
    heatmap: NDArray[np.float32] | None = None
    """Float (H, W) in [0, 1], or None."""
    tags: tuple[str, ...] = ()
    raw: str = ""
    """The model's own text."""
    detector: str
    """Id and revision of the detector."""

    def __post_init__(self) -> None:
        _check_unit("Analysis", "fake_probability", self.fake_probability)
        for region in self.regions:
            if region.mask is not None:
                _check_mask("Analysis.regions", region.mask, self.size)
            if region.box[2] > self.size.width or region.box[3] > self.size.height:
                raise BadAnswerError(
                    f"Analysis.regions must lie inside the image of {self.size}, got box {region.box}."
                )
        if self.heatmap is not None and self.heatmap.shape != tuple(self.size):
            raise BadAnswerError(f"Analysis.heatmap must have shape {tuple(self.size)}, got {self.heatmap.shape}.")

    @property
    def mask(self) -> Mask:
        """Union of the regions, bool (H, W)."""
        union = np.zeros(tuple(self.size), dtype=np.bool_)
        for region in self.regions:
            union |= region.pixels(self.size)
        return union

    @property
    def artifact_ratio(self) -> float:
        """Share of flawed pixels, in [0, 1] (PAR in X-AIGD)."""
        return float(self.mask.mean())

    @property
    def burden(self) -> float:
        """Sum over the regions of severity x confidence; 0 for a clean image. Lower is better."""
        return float(sum(region.severity * region.score for region in self.regions))


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure about one image."""

    name: str
    value: float
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What an attempt cost in network work."""

    denoiser_rows: int = 0
    """Rows that went through the denoiser, guidance included: batch size summed over its forward passes."""
    detector_calls: int = 0
    """Images that went through the detector."""

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            denoiser_rows=self.denoiser_rows + other.denoiser_rows,
            detector_calls=self.detector_calls + other.detector_calls,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One picture the loop looked at, and what became of it."""

    index: int
    action: Action
    prompt: str
    """The prompt that painted this picture (the user's, or a revised one)."""
    negative_prompt: str = ""
    seed: int
    image: Image.Image | None
    """None where the model failed to paint (see ``error``)."""
    analysis: Analysis | None
    """None where the picture could not be analysed (see ``error``)."""
    scores: tuple[Score, ...] = ()
    accepted: bool
    """Whether this picture became the best so far."""
    reason: str
    """Why it was accepted or rejected, in words."""
    note: str = ""
    """What else the user should know, of the reviser's prompt or of memory that ran out; empty where all was usual."""
    painted: Mask | None = None
    """Pixels that differ from the picture it was made from (inpainting only), bool (H, W)."""
    error: str | None = None
    """What a model did wrong, in words; None where all went well."""
    seconds: float = 0.0
    calls: Calls = field(default_factory=Calls)


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementResult:
    """All attempts at one prompt, and the one that was kept."""

    prompt: str
    attempts: tuple[Attempt, ...]
    best: int
    """Index into ``attempts`` of the picture that was kept."""
    stop: StopReason
    settings: Mapping[str, object] = field(default_factory=dict)
    """What made them, as plain JSON values (``refiner.pipelines.saving.record``); empty where that is not known."""

    def __post_init__(self) -> None:
        if not 0 <= self.best < len(self.attempts):
            raise ConfigError(f"RefinementResult.best must index {len(self.attempts)} attempts, got {self.best}.")

    @property
    def image(self) -> Image.Image:
        """The picture that was kept."""
        image = self.attempts[self.best].image
        if image is None:
            raise ConfigError("RefinementResult.best must name an attempt that has an image.")
        return image

    @property
    def history(self) -> Sequence[Image.Image]:
        """The pictures of all attempts that have one, in order."""
        return [attempt.image for attempt in self.attempts if attempt.image is not None]

    @property
    def calls(self) -> Calls:
        """Network work of all attempts together."""
        return sum((attempt.calls for attempt in self.attempts), Calls())

    def save(self, folder: str) -> Mapping[str, str]:
        """Write pictures, sheet, ``report.html`` and ``run.json`` into ``folder``; returns name -> path.

        Raises:
            OutputError: the folder cannot be written; nothing half-written stays behind.
        """
        from refiner.reports.result import save_result

        return save_result(self, folder)
