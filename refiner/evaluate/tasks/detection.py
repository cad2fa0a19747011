"""The task ``detection``: generated or real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from refiner.calibration import abstained
from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unscored
from refiner.files import Json
from refiner.metrics import classification
from refiner.metrics.classification import BinaryCounts

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
    """

    threshold: float
    """An image counts as generated if its probability is above this."""
    plots = Plots(histograms=("probability",), worst="margin", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Version, threshold and rules."""
        decision = f"decision=score>{self.threshold:g}|positive=fake|empty=0"
        return f"aj|version={classification.VERSION}|{decision}|group_mean=unweighted"

    def row(self, record: Json) -> Figures | Unscored:
        """The truth, the probability of being generated, and its margin (positive if the verdict is right)."""
        fake, analysis = record["truth"]["fake"], record["answer"]["analysis"]
        probability = analysis["fake_probability"]
        if fake is None:
            return Unscored("missing_truth", "the sample does not say whether it is generated")
        if probability is None and abstained(analysis["tags"]):
            return {"fake": float(fake), "probability": None, "margin": None}
        if probability is None:
            return Unscored("no_verdict", "the detector gives no probability of being generated")
        margin = probability - self.threshold
        return {"fake": float(fake), "probability": probability, "margin": margin if fake else -margin}

    def figures(self, columns: Columns) -> Figures:
        """AJ of the images with a verdict, and their share."""
        fake = columns["fake"] == 1
        probability = columns["probability"] if "probability" in columns else np.full(len(fake), np.nan)
        decided = ~np.isnan(probability)
        if not decided.any():
            return dict.fromkeys(BinaryCounts().document()) | {"decided": 0.0}
        fake, called = fake[decided], probability[decided] > self.threshold
        groups = {"tp": fake & called, "fp": ~fake & called, "tn": ~fake & ~called, "fn": fake & ~called}
        counts = BinaryCounts(**{name: int(group.sum()) for name, group in groups.items()})
        return counts.document() | {"decided": float(decided.mean())}

    def across(self, groups: Mapping[str, Figures]) -> Figures:
        """Unweighted means of the groups' accuracies: over all groups, and over each of ``KINDS`` that is complete."""
        accuracies = {name: value for name, row in groups.items() if (value := row["accuracy"]) is not None}
        kinds = {"group_mean": tuple(accuracies), **KINDS}
        return {
            f"accuracy_{kind}": sum(accuracies[name] for name in names) / len(names)
            for kind, names in kinds.items()
            if names and accuracies.keys() >= set(names)
        }
