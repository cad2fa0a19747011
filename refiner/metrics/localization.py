"""How well masks of flaws fit the truth: X-AIGD's PAD figures, LEGION's mIoU and F1, and the artifact ratio (PAR).

Everything comes from four whole numbers an image: pixels that are flawed and found (tp), sound and reported (fp),
flawed and missed (fn), sound and left alone (tn). They add up exactly over images, shards and categories. Two
averages are kept apart by name, because papers mix them up: ``pooled`` counts the pixels of all images together,
``per_image`` takes the mean of the images' own figures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from refiner.errors import ConfigError
from refiner.files import Json
from refiner.types import Mask

VERSION = 1
"""Grows when equal input may give other numbers."""


def ratio(part: float, whole: float, empty: float = 0.0) -> float:
    """``part / whole``, and ``empty`` for 0 / 0."""
    return part / whole if whole else empty


@dataclass(frozen=True, kw_only=True)
class PixelCounts:
    """Pixels of one image, or of many together."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn)

    def iou(self, empty: float = 0.0) -> float:
        """Intersection over union of the flawed pixels, in [0, 1]; ``empty`` where both masks are."""
        return ratio(self.tp, self.tp + self.fp + self.fn, empty)

    def background_iou(self, empty: float = 0.0) -> float:
        """The same of the sound pixels."""
        return ratio(self.tn, self.tn + self.fp + self.fn, empty)

    def miou(self, empty: float = 0.0) -> float:
        """Mean of both, in [0, 1]."""
        return (self.iou(empty) + self.background_iou(empty)) / 2

    def precision(self, empty: float = 0.0) -> float:
        """Share of the reported pixels that are flawed, in [0, 1]; ``empty`` where both masks are, else 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fp, 0.0 if self.fn else empty)

    def recall(self, empty: float = 0.0) -> float:
        """Share of the flawed pixels that are reported, in [0, 1]; ``empty`` where both masks are, else 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fn, 0.0 if self.fp else empty)

    def f1(self, empty: float = 0.0) -> float:
        """Harmonic mean of precision and recall, in [0, 1]; ``empty`` where both masks are."""
        precision, recall = self.precision(empty), self.recall(empty)
        return ratio(2 * precision * recall, precision + recall)

    @property
    def flawed(self) -> bool:
        """Whether the truth has any flawed pixel (PAR > 0)."""
        return self.tp + self.fn > 0

    @property
    def reported(self) -> bool:
        """Whether the prediction has any flawed pixel."""
        return self.tp + self.fp > 0

    @property
    def par(self) -> float:
        """Perceptual artifact ratio: share of flawed pixels in the truth, in [0, 1]."""
        return ratio(self.tp + self.fn, self._area)

    @property
    def predicted_par(self) -> float:
        """Share of flawed pixels in the prediction, in [0, 1]."""
        return ratio(self.tp + self.fp, self._area)

    @property
    def _area(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    def pad(self, empty: float = 0.0) -> dict[str, float]:
        """``IoU``, ``PixP``, ``PixR`` and ``PixF1`` as X-AIGD names them, in [0, 1]."""
        return {
            "IoU": self.iou(empty),
            "PixP": self.precision(empty),
            "PixR": self.recall(empty),
            "PixF1": self.f1(empty),
        }


def count_pixels(predicted: Mask, truth: Mask) -> PixelCounts:
    """Compare two masks.

    Args:
        predicted: bool (H, W), True = flawed.
        truth: bool of the same shape.

    Raises:
        ConfigError: the masks are of different shapes or not bool.
    """
    if predicted.shape != truth.shape or predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ConfigError(
            f"Expected two bool masks of one shape, got {predicted.dtype} {predicted.shape} and {truth.dtype} "
            f"{truth.shape}: bring them to the image's size first."
        )
    both = int(np.count_nonzero(predicted & truth))
    found, flawed = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
    return PixelCounts(tp=both, fp=found - both, fn=flawed - both, tn=truth.size - found - flawed + both)


@dataclass(frozen=True, kw_only=True)
class PixelTotals:
    """Counts of many images, and the sums of the images' own figures; adds up over shards.

    In ``per_image`` figures an image without truth and without prediction counts as perfect (1); where only one of
    the two is empty, as 0. In ``pooled`` figures 0 / 0 is 0.
    """

    counts: PixelCounts = PixelCounts()
    images: int = 0
    silent: int = 0
    """Images whose prediction is empty or missing."""
    iou: float = 0.0
    background_iou: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0
    par: float = 0.0
    predicted_par: float = 0.0

    @classmethod
    def of(cls, counts: PixelCounts) -> PixelTotals:
        """The totals of one image."""
        return cls(
            counts=counts,
            images=1,
            silent=int(not counts.reported),
            iou=counts.iou(1.0),
            background_iou=counts.background_iou(1.0),
            precision=counts.precision(1.0),
            recall=counts.recall(1.0),
            f1=counts.f1(1.0),
            par=counts.par,
            predicted_par=counts.predicted_par,
        )

    def __add__(self, other: PixelTotals) -> PixelTotals:
        return PixelTotals(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    def pad(self) -> dict[str, float]:
        """X-AIGD's official figures: pooled."""
        return self.counts.pad()

    def pad_per_image(self) -> dict[str, float]:
        """The means of the images' own ``IoU``, ``PixP``, ``PixR`` and ``PixF1``; 0 without images."""
        sums = {"IoU": self.iou, "PixP": self.precision, "PixR": self.recall, "PixF1": self.f1}
        return {name: ratio(value, self.images) for name, value in sums.items()}

    def legion(self) -> Json:
        """LEGION's localisation figures (section 5.2 of arXiv 2503.15264): mIoU over fore- and background, and F1.

        The paper does not say over what it averages, and its table excludes that both columns are pooled: so
        ``per_image`` is what compares best, and ``pooled`` stands beside it.
        """
        iou, background = ratio(self.iou, self.images), ratio(self.background_iou, self.images)
        per_image = {"miou": (iou + background) / 2, "f1": ratio(self.f1, self.images)}
        pooled = {"miou": self.counts.miou(), "f1": self.counts.f1()}
        signature = f"legion-localization|version={VERSION}|average=per_image,pooled|empty=1,0|threshold=none"
        return {"per_image": per_image, "pooled": pooled, "images": self.images, "signature": signature}


def by_artifact_ratio(flawed: PixelTotals, clean: PixelTotals) -> Json:
    """X-AIGD's comparison of images with artifacts (PAR > 0) and without (PAR = 0), ready for JSON.

    Args:
        flawed: totals of the images with ``PixelCounts.flawed``.
        clean: totals of the others; any pixel reported there is wrong.
    """
    groups = {"PAR>0": flawed, "PAR=0": clean}
    return {
        name: {
            "images": group.images,
            "flagged": ratio(group.images - group.silent, group.images),
            "par": ratio(group.par, group.images),
            "predicted_par": ratio(group.predicted_par, group.images),
            **group.pad(),
        }
        for name, group in groups.items()
    }
