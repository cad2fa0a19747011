"""Scoring of SemAP and SemF1: from the similarity of anomalies to counts and means (only numpy, no encoder).

``refiner.metrics.semap`` defines the metric and computes the similarities.
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
from refiner.metrics.counts import Hits
from refiner.reading import reason_of

Floats = NDArray[np.float32]
View = Literal["phe", "rea", "full"]
Protocol = Literal["official", "ranked"]

VERSION = 1
"""Increases when the same input can give other numbers."""
_SHARE = {"phe": 1.0, "rea": 0.0, "full": 0.5}
"""The phenomenon's share of a pair's score; the rest is the reasoning's."""


@dataclass(frozen=True, kw_only=True)
class SemapConfig:
    """What is counted; the defaults are those of the official evaluator."""

    view: View = "full"
    protocol: Protocol = "official"
    thresholds: tuple[float, ...] = (0.7, 0.8, 0.9)
    matching: Literal["greedy", "optimal"] = "greedy"
    """Best pair first, or the assignment with the largest sum."""
    missing: Literal["dropped", "empty"] = "dropped"
    """Reference images without a prediction: left out, or counted as predicted without anomalies."""
    empty: Literal[0, 1] = 0
    """The score of an image without anomalies on either side."""

    def __post_init__(self) -> None:
        for name, kind in {"view": View, "protocol": Protocol}.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"Expected a {name} of {known}; got {getattr(self, name)!r}: name one of these.")
        if not self.thresholds or not all(0 < tau <= 1 for tau in self.thresholds):
            raise ConfigError(f"Expected thresholds in (0, 1], got {self.thresholds}: name at least one.")
        if len({f"{tau:g}" for tau in self.thresholds}) < len(self.thresholds):
            raise ConfigError(f"Expected different thresholds, got {self.thresholds}: name each once.")

    @property
    def signature(self) -> str:
        """Every choice; figures with equal signatures are comparable."""
        return (
            f"semap|version={VERSION}|protocol={self.protocol}|view={self.view}"
            f"|thresholds={','.join(f'{tau:g}' for tau in self.thresholds)}|matching={self.matching}|average=macro"
            f"|missing={self.missing}|empty={self.empty}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """The similarities of one image. Scoring needs nothing else, for each view."""

    image: str
    phenomenon: Floats
    """BERTScore F1 of the phenomena, float32 (predictions, references)."""
    reasoning: Floats
    """The same of the reasonings."""
    confidence: tuple[float | None, ...]
    """Severity of each prediction, in [0, 1]. ``protocol="ranked"`` sorts by it, None last."""

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
        """The exact inverse of ``to_dict``.

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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"Expected a record written by Similarity.to_dict, got one that cannot be read ({reason_of(error)}): "
                "write it again."
            ) from error


class Pair(NamedTuple):
    """A prediction and the reference it was matched with."""

    prediction: int
    reference: int
    score: float


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image."""

    image: str
    predictions: int
    references: int
    pairs: tuple[Pair, ...]
    by_threshold: tuple[Hits, ...]
    semap: float
    semf1: float


@dataclass(frozen=True, kw_only=True)
class SemapResult:
    """The scores of all images, and the problems of the input."""

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
    def by_threshold(self) -> dict[str, Hits]:
        """Counts of all images together (micro), by threshold as text."""
        sums = (sum(counts, Hits()) for counts in zip(*(image.by_threshold for image in self.images), strict=True))
        return {f"{tau:g}": counts for tau, counts in zip(self.config.thresholds, sums, strict=True)}

    @property
    def micro(self) -> tuple[float, float]:
        """Mean over the thresholds of precision and of F1 of all images together."""
        counts = self.by_threshold.values()
        return float(np.mean([each.precision for each in counts])), float(np.mean([each.f1 for each in counts]))

    def document(self) -> Json:
        """The output of ``refiner evaluate semap --json``; nothing is rounded."""
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
    """Match predictions and references one to one where the score is above 0; the best pair first.

    Args:
        scores: float (predictions, references).
        method: ``greedy`` takes the best pair that is left. Of equal pairs it takes the first prediction, then the
            first reference. ``optimal`` takes the pairs whose scores have the largest sum.
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
    counts = tuple(Hits(tp=len(hit), fp=predictions - len(hit), fn=references - len(hit)) for hit in hits)
    precisions = [each.precision for each in counts]
    if config.protocol == "ranked":
        rank = [1.0 if severity is None else -severity for severity in similarity.confidence]
        worst_first = sorted(range(predictions), key=rank.__getitem__)
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


def _area(order: Sequence[int], right: set[int], references: int) -> float:
    """Area under the interpolated precision-recall curve: each precision is the best one at this recall or higher."""
    if not references or not order:
        return 0.0
    hits = np.array([at in right for at in order])
    precisions = np.cumsum(hits) / np.arange(1, len(order) + 1)
    best_from_here = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(best_from_here[hits].sum() / references)


def score(similarities: Iterable[Similarity], config: SemapConfig, encoder: str) -> SemapResult:
    """Score images that an encoder has already compared.

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
