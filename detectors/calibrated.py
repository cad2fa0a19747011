"""A detector whose verdicts were calibrated on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refiner.calibration import ABSTAINED, Calibration, abstained
from refiner.detectors.composed import ComposedDetector
from refiner.errors import ConfigError
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Detector
from refiner.types import Analysis


class CalibratedDetector(ComposedDetector):
    """Maps the ``fake_probability`` of a detector by a calibration; a ``refiner.protocols.Detector``.

    Above the calibration's operating point, ``fake_probability`` is above 0.5, else below (see
    ``Calibration.verdict``). In the abstention band it is None, and a tag that begins with
    ``refiner.calibration.ABSTAINED`` says so: the verdict is open, and other parts must not take it for "real". An
    image whose verdict the detector itself leaves open stays so.

    Regions, with their severities and scores, the heatmap and ``raw`` are those of the detector, whatever the verdict:
    an image that is called real keeps its regions. A gate withholds them (``refiner.detectors.gated``).

    Args:
        detector: the detector that the calibration is for.
        calibration: from ``refiner calibrate``.

    Raises:
        ConfigError: the calibration is for another detector.
    """

    def __init__(self, detector: DetectorLike, calibration: Calibration) -> None:
        self.detector, self.calibration = as_detector(detector), calibration
        if calibration.detector != self.detector.name:
            raise ConfigError(
                f"Expected a calibration of the detector {self.detector.name!r}, got one of {calibration.detector!r}: "
                "run refiner calibrate for this detector."
            )
        self.name = f"{self.detector.name} calibrated {calibration.digest}"

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``, or says that the verdict is open."""
        return True

    @property
    def parts(self) -> tuple[Detector, ...]:
        """The detector."""
        return (self.detector,)

    def _combined(self, found: Sequence[Analysis]) -> Analysis:
        (analysis,) = found
        score = analysis.fake_probability
        if score is None:
            if abstained(analysis.tags):
                return replace(analysis, detector=self.name)
            raise ConfigError(
                f"The detector {self.detector.name!r} gives no fake_probability for an image, so that its calibration "
                "cannot be used: leave the calibration out."
            )
        verdict = self.calibration.verdict(score)
        tags = analysis.tags if verdict is not None else (*analysis.tags, self._open(score))
        return replace(analysis, fake_probability=verdict, tags=tags, detector=self.name)

    def _open(self, score: float) -> str:
        assert self.calibration.band is not None
        low, high = self.calibration.band
        return (
            f"{ABSTAINED} {self.detector.name} gives the score {score:.3g}; verdicts from {low:.3g} to {high:.3g} are "
            f"wrong in more than {100 * self.calibration.max_error:.3g} % of the cases"
        )
