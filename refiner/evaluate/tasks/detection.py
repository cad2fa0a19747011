"""The task ``detection``: generated or real."""

from __future__ import annotations

from dataclasses import dataclass

from refiner.evaluate.figures import (
    Columns,
    Figures,
    Plots,
    Row,
    Unscored,
)  # fmt: skip
from refiner.files import Json
from refiner.metrics import classification
from refiner.metrics.classification import BinaryCounts


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Generated or real: balanced accuracy, precision, recall and F1 as X-AIGD's AJ has them, and plain accuracy."""

    threshold: float
    """A probability above it says generated."""
    plots = Plots(histograms=("probability",), worst="margin", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Version, threshold and rules."""
        return f"aj|version={classification.VERSION}|decision=score>{self.threshold:g}|positive=fake|empty=0"

    def row(self, record: Json) -> Row | Unscored:
        """The truth, the probability of generated, and by how much it is on the right side."""
        fake, probability = record["truth"]["fake"], record["answer"]["analysis"]["fake_probability"]
        if fake is None:
            return Unscored("missing_truth", "the sample does not say whether it is generated")
        if probability is None:
            return Unscored("no_verdict", "the detector gives no probability of being generated")
        margin = probability - self.threshold
        return {"fake": float(fake), "probability": probability, "margin": margin if fake else -margin}

    def miss(self, record: Json) -> Row | None:
        """None: AJ is of verdicts that were given."""

    def figures(self, columns: Columns) -> Figures:
        """AJ."""
        fake, called = columns["fake"] == 1, columns["probability"] > self.threshold
        groups = {"tp": fake & called, "fp": ~fake & called, "tn": ~fake & ~called, "fn": fake & ~called}
        return BinaryCounts(**{name: int(group.sum()) for name, group in groups.items()}).document()

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """None."""
        return {}
