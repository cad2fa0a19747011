"""How well masks of flaws fit the truth: X-AIGD's PAD figures, LEGION's mIoU and F1, and the artifact ratio (PAR).

All figures come from four pixel counts an image: flawed and found (tp), clean and reported (fp), flawed and missed
(fn), clean and not reported (tn). The counts add up exactly over images, shards and categories. There are two averages,
which papers mix up: ``pooled`` counts the pixels of all images together, ``per_image`` is the mean of the figures of
the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refiner.errors import ConfigError
from refiner.files import Json
from refiner.metrics.counts import Summed, ratio
from refiner.types import Mask

VERSION = 1
"""Increases when the same input can give other numbers."""


@dataclass(frozen=True, kw_only=True)
class PixelCounts(Summed):
    """Pixels of one image, or of many images together. All figures lie in [0, 1]."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def iou(self, empty: float = 0.0) -> float:
        """Intersection over union of the flawed pixels; ``empty`` if both masks are empty."""
        return ratio(self.tp, self.tp + self.fp + self.fn, empty)

    def background_iou(self, empty: float = 0.0) -> float:
        """Intersection over union of the clean pixels; ``empty`` if there are none."""
        return ratio(self.tn, self.tn + self.fp + self.fn, empty)

    def precision(self, empty: float = 0.0) -> float:
        """Share of the reported pixels that are flawed; ``empty`` if both masks are empty, else 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fp, 0.0 if self.fn else empty)

    def recall(self, empty: float = 0.0) -> float:
        """Share of the flawed pixels that are reported; ``empty`` if both masks are empty, else 0 for 0 / 0."""
        return ratio(self.tp, self.tp + self.fn, 0.0 if self.fp else empty)

    def f1(self, empty: float = 0.0) -> float:
        """Harmonic mean of precision and recall; ``empty`` if both masks are empty."""
        precision, recall = self.precision(empty), self.recall(empty)
        return ratio(2 * precision * recall, precision + recall)

    @property
    def flawed(self) -> bool:
        """Whether the truth has a flawed pixel (PAR > 0)."""
        return self.tp + self.fn > 0

    @property
    def reported(self) -> bool:
        """Whether the prediction has a flawed pixel."""
        return self.tp + self.fp > 0

    @property
    def par(self) -> float:
        """Perceptual artifact ratio: share of flawed pixels in the truth."""
        return ratio(self.tp + self.fn, self.tp + self.fp + self.fn + self.tn)

    @property
    def predicted_par(self) -> float:
        """Share of flawed pixels in the prediction."""
        return ratio(self.tp + self.fp, self.tp + self.fp + self.fn + self.tn)

    def pad(self) -> dict[str, float]:
        """``IoU``, ``PixP``, ``PixR`` and ``PixF1``, the names of X-AIGD."""
        return {"IoU": self.iou(), "PixP": self.precision(), "PixR": self.recall(), "PixF1": self.f1()}


def count_pixels(predicted: Mask, truth: Mask) -> PixelCounts:
    """Compare two masks, bool (H, W) each, True = flawed.

    Raises:
        ConfigError: the masks have different shapes or are not bool.
    """
    if predicted.shape != truth.shape or predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ConfigError(
            f"Expected two bool masks of one shape, got {predicted.dtype} {predicted.shape} and {truth.dtype} "
            f"{truth.shape}: resize them to the image first."
        )
    both = int(np.count_nonzero(predicted & truth))
    found, flawed = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
    return PixelCounts(tp=both, fp=found - both, fn=flawed - both, tn=truth.size - found - flawed + both)


@dataclass(frozen=True, kw_only=True)
class PixelTotals(Summed):
    """Counts of many images, and the sums of the images' own figures.

    In ``per_image`` figures an image with an empty truth and an empty prediction counts as perfect (1); if only one of
    the two is empty, it counts as 0. In ``pooled`` figures 0 / 0 is 0.
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
        figures = {name: getattr(counts, name)(1.0) for name in ("iou", "background_iou", "precision", "recall", "f1")}
        shares = {"par": counts.par, "predicted_par": counts.predicted_par}
        return cls(counts=counts, images=1, silent=int(not counts.reported), **figures, **shares)

    def pad(self) -> dict[str, float]:
        """X-AIGD's official figures: pooled."""
        return self.counts.pad()

    def pad_per_image(self) -> dict[str, float]:
        """The means of the images' own ``IoU``, ``PixP``, ``PixR`` and ``PixF1``; 0 without images."""
        sums = {"IoU": self.iou, "PixP": self.precision, "PixR": self.recall, "PixF1": self.f1}
        return {name: ratio(value, self.images) for name, value in sums.items()}

    def legion(self) -> Json:
        """LEGION's localisation figures (section 5.2 of arXiv 2503.15264): F1, and mIoU over foreground and background.

        The paper does not state its average, but its table excludes that both columns are pooled. And PAL4VST's figures
        of all images (its Table 10) are the means of those of the four content types (its Table 2), weighted by their
        images, as only means over images are. So ``per_image`` is the most comparable reading, and ``pooled`` is given
        beside it.
        """
        iou, background = ratio(self.iou, self.images), ratio(self.background_iou, self.images)
        per_image = {"miou": (iou + background) / 2, "f1": ratio(self.f1, self.images)}
        pooled = {"miou": (self.counts.iou() + self.counts.background_iou()) / 2, "f1": self.counts.f1()}
        signature = f"legion-localization|version={VERSION}|average=per_image,pooled|empty=1,0|threshold=none"
        return {"per_image": per_image, "pooled": pooled, "images": self.images, "signature": signature}


def by_artifact_ratio(flawed: PixelTotals, clean: PixelTotals) -> Json:
    """X-AIGD's comparison of images with artifacts (PAR > 0) and without (PAR = 0), ready for JSON.

    Args:
        flawed: totals of the images with ``PixelCounts.flawed``.
        clean: totals of the others; each pixel reported there is wrong.
    """
    return {
        name: {
            "images": group.images,
            "flagged": ratio(group.images - group.silent, group.images),
            "par": ratio(group.par, group.images),
            "predicted_par": ratio(group.predicted_par, group.images),
            **group.pad(),
        }
        for name, group in {"PAR>0": flawed, "PAR=0": clean}.items()
    }
