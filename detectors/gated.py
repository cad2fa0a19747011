"""A detector whose regions are used only where another one says that the image is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refiner.calibration import ABSTAINED, abstained
from refiner.detectors.composed import ComposedDetector
from refiner.errors import ConfigError
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Deciding, Detector
from refiner.types import Analysis


class GatedDetector(ComposedDetector):
    """Uses the regions of a detector only on images that its gate takes for generated.

    A ``refiner.protocols.Detector``.

    It gives a verdict to a detector that has none, such as LEGION's public weights (papers/legion.md section 4.2),
    which find flaws in real photographs too. ``fake_probability`` is that of the gate. Where it is below the
    threshold, the regions and the heatmap of the detector are withheld, which ``tags`` says; ``raw`` keeps its answer.
    Where a calibrated gate leaves its verdict open, so does this detector, and the regions are kept. If one of the two
    raises an error, the whole call raises it.

    Args:
        detector: finds the flaws.
        gate: gives a ``fake_probability`` for each image.
        threshold: minimum ``fake_probability``, in [0, 1], at which the regions are used.

    Raises:
        ConfigError: the gate is known to give no ``fake_probability``, or the threshold is out of its range.
    """

    def __init__(self, detector: DetectorLike, gate: DetectorLike, *, threshold: float = 0.5) -> None:
        self.detector, self.gate = as_detector(detector), as_detector(gate)
        if not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"The threshold of a gate must lie in [0, 1], got {threshold!r}: choose another one.")
        if isinstance(self.gate, Deciding) and not self.gate.decides:
            raise _undecided(self.gate.name)
        self.threshold = threshold
        self.name = f"{self.detector.name} gated by {self.gate.name}"

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``, or says that the verdict is open."""
        return True

    @property
    def parts(self) -> tuple[Detector, Detector]:
        """The gate and the detector."""
        return self.gate, self.detector

    def _chance(self, verdict: Analysis) -> float | None:
        """The gate's ``fake_probability``; None if it leaves the verdict open."""
        if verdict.fake_probability is None and not abstained(verdict.tags):
            raise _undecided(self.gate.name)
        return verdict.fake_probability

    def _combined(self, found: Sequence[Analysis]) -> Analysis:
        verdict, analysis = found
        chance = self._chance(verdict)
        told = replace(analysis, fake_probability=chance, detector=self.name)
        if chance is None:
            return replace(told, tags=(*analysis.tags, f"{ABSTAINED} {self.gate.name} leaves the verdict open"))
        if chance >= self.threshold:
            return told
        count = len(analysis.regions)
        tag = (
            f"{count} region{'' if count == 1 else 's'} withheld: {self.gate.name} takes the image for real "
            f"(fake_probability {chance:.3f})"
        )
        return replace(told, regions=(), heatmap=None, tags=(*analysis.tags, tag))


def _undecided(gate: str) -> ConfigError:
    return ConfigError(
        f"The gate {gate!r} gives no fake_probability: use a detector with a real/fake verdict, such as micro."
    )
