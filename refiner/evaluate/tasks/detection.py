"""The task ``detection``: generated or real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from refiner.calibration import abstained
from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unscored, true_flaws
from refiner.evaluate.tasks.pixels import heatmap_figures, heatmap_row
from refiner.files import Json
from refiner.metrics import classification
from refiner.metrics.classification import BinaryCounts
from refiner.metrics.heatmaps import HeatmapConfig
from refiner.records import analysis_from_dict

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "gans": ("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan"),
    "diffusion": (
        "guided", "ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10", "dalle",
    ),
}  # fmt: skip
"""The generators of UniversalFakeDetect whose mean is one column of LEGION's Table 5, by their folders there."""


@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    """Generated or real: balanced accuracy, precision, recall and F1 as X-AIGD's AJ defines them, and plain accuracy.

    With groups, also the unweighted means of their accuracies, as in LEGION's Table 5. AJ counts verdicts only: an
    answer that could not be read has no figures. An image whose verdict a calibrated detector leaves open counts
    only in ``decided``, the share of images that have a verdict.

    If the detector gives heat maps, and the flaws of generated images are known, also the alignment of the two on the
    generated images (X-AIGD's table of existing detectors). Real images are left out there, as in X-AIGD's PAD.
    """

    threshold: float
    """An image counts as generated if its probability is above this."""
    heatmap: HeatmapConfig
    plots = Plots(histograms=("probability", "heatmap_iou"), worst="margin", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Version, threshold and rules."""
        decision = f"decision=score>{self.threshold:g}|positive=fake|empty=0"
        verdicts = f"aj|version={classification.VERSION}|{decision}|group_mean=unweighted|group_real=own,ungrouped"
        return f"{verdicts};{self.heatmap.signature}|images=generated"

    def row(self, record: Json) -> Figures | Unscored:
        """Truth, probability, its margin (positive if the verdict is right), and pixel counts of the heat map."""
        fake, analysis = record["truth"]["fake"], record["answer"]["analysis"]
        probability = analysis["fake_probability"]
        if fake is None:
            return Unscored("missing_truth", "the sample does not say whether it is generated")
        if probability is None and not abstained(analysis["tags"]):
            return Unscored("no_verdict", "the detector gives no probability of being generated")
        margin = None if probability is None else probability - self.threshold
        if margin is not None and not fake:
            margin = -margin
        row: Figures = {"fake": float(fake), "probability": probability, "margin": margin}
        return row | (self._aligned(record) if fake else {})

    def _aligned(self, record: Json) -> Figures:
        """The pixel counts of the heat map against the true flaws of a generated image, if both are known."""
        if record["answer"]["analysis"]["heatmap"] is None or (truth := true_flaws(record)) is None:
            return {}
        if truth.known_ratio is None:
            return {}
        return heatmap_row(analysis_from_dict(record["answer"]["analysis"]), truth.mask, self.heatmap)

    def figures(self, columns: Columns) -> Figures:
        """AJ of the images with a verdict, their share, and the alignment of heat maps."""
        fake = columns["fake"] == 1
        probability = columns["probability"] if "probability" in columns else np.full(len(fake), np.nan)
        decided = ~np.isnan(probability)
        aligned = {"decided": float(decided.mean())} | heatmap_figures(columns)
        if not decided.any():
            return dict.fromkeys(BinaryCounts().document()) | aligned
        fake, called = fake[decided], probability[decided] > self.threshold
        groups = {"tp": fake & called, "fp": ~fake & called, "tn": ~fake & ~called, "fn": fake & ~called}
        counts = BinaryCounts(**{name: int(group.sum()) for name, group in groups.items()})
        return counts.document() | aligned

    def compared(self, columns: Columns, own: NDArray[np.bool_], ungrouped: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Its own samples, and the real ones of no group if it has none.

        All generators of Synthbuster, for example, share one set of real images.
        """
        real: NDArray[np.bool_] = columns["fake"] == 0
        return own if (own & real).any() else own | (ungrouped & real)

    def across(self, groups: Mapping[str, Figures]) -> Figures:
        """Unweighted means of the groups' accuracies: over all groups, and over each of ``KINDS`` that is complete."""
        accuracies = {name: value for name, row in groups.items() if (value := row["accuracy"]) is not None}
        kinds = {"group_mean": tuple(accuracies), **KINDS}
        return {
            f"accuracy_{kind}": sum(accuracies[name] for name in names) / len(names)
            for kind, names in kinds.items()
            if names and accuracies.keys() >= set(names)
        }
