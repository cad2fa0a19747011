"""LEGION: Learning to Ground and Explain for Synthetic Image Detection (papers/legion.md)."""

from refiner.detectors.family import Family, loader
from refiner.detectors.legion.layouts import is_original, is_ours

__all__ = ["FAMILY"]

FAMILY = Family(
    name="legion",
    load=loader("refiner.detectors.legion.detector:LegionDetector.from_pretrained"),
    recognise=lambda config, _folder: is_ours(config) or is_original(config),
)
