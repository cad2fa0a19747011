"""Scoring behind SemAP and SemF1: from the similarity of anomalies to counts and means (numpy alone, no encoder).

``refiner.metrics.semap`` says what is measured and makes the similarities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.data.problems import Problem
from refiner.errors import ConfigError, InputError
from refiner.files import Json

Floats = NDArray[np.float32]
View = Literal["phe", "rea", "full"]
Protocol = Literal["official", "ranked"]

VERSION = 1
"""Grows when equal input may give other numbers."""
_SHARE = {"phe": 1.0, "rea": 0.0, "full": 0.5}
"""How much of a pair's score is the phenomenon's; the rest is the reasoning's."""


@dataclass(frozen=True, kw_only=True)
class SemapConfig:
    """What is counted; the defaults are the official evaluator's."""

    view: View = "full"
    protocol: Protocol = "official"
    thresholds: tuple[float, ...] = (0.7, 0.8, 0.9)
    matching: Literal["greedy", "optimal"] = "greedy"
    """Best pair first, or the assignment of the largest sum."""
    missing: Literal["dropped", "empty"] = "dropped"
    """Images of the references without a prediction: left out, or taken as predicted without anomalies."""
    empty: Literal[0, 1] = 0
    """What an image scores that has no anomalies on either side."""

    def __post_init__(self) -> None:
        for name, kind in {"view": View, "protocol": Protocol}.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"Expected a {name} of {known}; got {getattr(self, name)!r}: name one of these.")
        if not self.thresholds or not all(0 < tau <= 1 for tau in self.thresholds):
            raise ConfigError(f"Expected thresholds in (0, 1], got {self.thresholds}: name at least one.")

    @property
    def signature(self) -> str:
        """Every choice, so that equal signatures compare."""
        return (
            f"semap|version={VERSION}|protocol={self.protocol}|view={self.view}"
            f"|thresholds={','.join(f'{tau:g}' for tau in self.thresholds)}|matching={self.matching}|average=macro"
            f"|missing={self.missing}|empty={self.empty}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """What the encoder says of one image; all that scoring needs, whatever the view."""

    image: str
    phenomenon: Floats
    """BERTScore F1 of the phenomena, float32 (predictions, references)."""
    reasoning: Floats
    """The same of the reasonings."""
    confidence: tuple[float | None, ...]
    """Severity of each prediction, in [0, 1]; what ``protocol="ranked"`` orders them by, None last."""

    def fused(self, view: View) -> Floats:
        """Score of each pair in [0, 1], float32 (predictions, references)."""
        share, rest = np.float32(_SHARE[view]), np.float32(1 - _SHARE[view])
        fused: Floats = np.clip(share * self.phenomenon + rest * self.reasoning, 0, 1)
        return fused

    def to_dict(self) -> Json:
        """Ready for JSON, so that a run can be scored again without the encoder; ``from_dict`` reads it back."""
        return {
            "image": self.image,
            "shape": list(self.phenomenon.shape),
            "phenomenon": self.phenomenon.ravel().tolist(),
            "reasoning": self.reasoning.ravel().tolist(),
            "confidence": list(self.confidence),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Similarity:
        """The inverse of ``to_dict``, exact.

        Raises:
            InputError: a field is missing or cannot be read.
        """
        try:
            rows, columns = data["shape"]
            return cls(
                image=str(data["image"]),
                phenomenon=np.array(data["phenomenon"], dtype=np.float32).reshape(rows, columns),
                reasoning=np.array(data["reasoning"], dtype=np.float32).reshape(rows, columns),
                confidence=tuple(data["confidence"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"Expected a record as Similarity.to_dict writes it, got one that fails with {error!r}: write it again."
            ) from error


class Pair(NamedTuple):
    """A prediction and the reference it was matched with."""

    prediction: int
    reference: int
    score: float


class Counts(NamedTuple):
    """True positives, false positives and false negatives; 0 for 0/0."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the predictions that are right."""
        return self.tp / (self.tp + self.fp) if self.tp else 0.0

    @property
    def recall(self) -> float:
        """Share of the references that were found."""
        return self.tp / (self.tp + self.fn) if self.tp else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return 2 * self.precision * self.recall / (self.precision + self.recall) if self.tp else 0.0


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image."""

    image: str
    predictions: int
    references: int
    pairs: tuple[Pair, ...]
    by_threshold: tuple[Counts, ...]
    semap: float
    semf1: float


@dataclass(frozen=True, kw_only=True)
class SemapResult:
    """All images, and what became of the input."""

    config: SemapConfig
    images: tuple[ImageScore, ...]
    signature: str
    problems: tuple[Problem, ...] = ()

    @property
    def semap(self) -> float:
        """Mean over the images, in [0, 1]."""
        return float(np.mean([image.semap for image in self.images]))

    @property
    def semf1(self) -> float:
        """Mean over the images, in [0, 1]."""
        return float(np.mean([image.semf1 for image in self.images]))

    @cached_property
    def by_threshold(self) -> dict[str, Counts]:
        """Counts of all images together (micro), by threshold as text."""
        sums = np.array([image.by_threshold for image in self.images]).sum(axis=0)
        return {f"{tau:g}": Counts(*map(int, row)) for tau, row in zip(self.config.thresholds, sums, strict=True)}

    @property
    def micro(self) -> tuple[float, float]:
        """Mean over the thresholds of precision and of F1 of all images together."""
        counts = self.by_threshold.values()
        return float(np.mean([each.precision for each in counts])), float(np.mean([each.f1 for each in counts]))

    def document(self) -> Json:
        """What ``refiner evaluate semap --json`` prints; nothing is rounded."""
        names = ("tp", "fp", "fn", "precision", "recall", "f1")
        rows = {tau: {name: getattr(each, name) for name in names} for tau, each in self.by_threshold.items()}
        return {
            "semap": self.semap,
            "semf1": self.semf1,
            "by_threshold": rows,
            "images": len(self.images),
            "signature": self.signature,
        }


def match(scores: NDArray[np.floating], method: Literal["greedy", "optimal"] = "greedy") -> tuple[Pair, ...]:
    """Pair predictions with references, one to one, where the score is above 0; the best pair first.

    Args:
        scores: float (predictions, references).
        method: ``greedy`` takes the best pair that is left, of equal ones that of the first prediction, then of the
            first reference; ``optimal`` the pairs whose scores have the largest sum.
    """
    if method == "optimal":
        from scipy.optimize import linear_sum_assignment

        order = zip(*linear_sum_assignment(scores, maximize=True), strict=True)
        pairs = [Pair(int(row), int(column), float(scores[row, column])) for row, column in order]
        return tuple(sorted((pair for pair in pairs if pair.score > 0), key=lambda pair: -pair.score))
    taken: list[Pair] = []
    rows, columns = set(range(scores.shape[0])), set(range(scores.shape[1]))
    for at in np.argsort(-scores, axis=None, kind="stable"):
        row, column = divmod(int(at), scores.shape[1])
        if scores[row, column] <= 0:
            break
        if row in rows and column in columns:
            taken.append(Pair(row, column, float(scores[row, column])))
            rows.discard(row)
            columns.discard(column)
    return tuple(taken)


def score_image(similarity: Similarity, config: SemapConfig) -> ImageScore:
    """Match and count one image."""
    predictions, references = similarity.phenomenon.shape
    pairs = match(similarity.fused(config.view), config.matching)
    hits = [[pair for pair in pairs if pair.score >= tau] for tau in config.thresholds]
    counts = tuple(Counts(len(hit), predictions - len(hit), references - len(hit)) for hit in hits)
    precisions = [each.precision for each in counts]
    if config.protocol == "ranked":
        worst_first = sorted(range(predictions), key=lambda at: _rank(similarity.confidence[at]))
        precisions = [_area(worst_first, {pair.prediction for pair in hit}, references) for hit in hits]
    nothing = predictions == references == 0
    return ImageScore(
        image=similarity.image,
        predictions=predictions,
        references=references,
        pairs=pairs,
        by_threshold=counts,
        semap=float(config.empty) if nothing else float(np.mean(precisions)),
        semf1=float(config.empty) if nothing else float(np.mean([each.f1 for each in counts])),
    )


def _rank(confidence: float | None) -> float:
    return 1.0 if confidence is None else -confidence


def _area(order: Sequence[int], right: set[int], references: int) -> float:
    """Area under the precision-recall curve, each precision raised to the best one at the same recall or a higher."""
    if not references or not order:
        return 0.0
    hits = np.array([at in right for at in order])
    precisions = np.cumsum(hits) / np.arange(1, len(order) + 1)
    best_from_here = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(best_from_here[hits].sum() / references)


def score(similarities: Iterable[Similarity], config: SemapConfig, encoder: str) -> SemapResult:
    """Score images that an encoder has compared already.

    Args:
        similarities: one for each image.
        config: what is counted.
        encoder: the encoder's signature.

    Raises:
        InputError: there is no image.
    """
    images = tuple(score_image(each, config) for each in similarities)
    if not images:
        raise InputError("Expected at least one image to score, got none: give predictions for the references' images.")
    return SemapResult(config=config, images=images, signature=f"{config.signature}|{encoder}")
