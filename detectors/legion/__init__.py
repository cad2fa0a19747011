"""LEGION: learning to ground and explain for synthetic image detection (papers/legion.md)."""

from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.modeling import LegionConfig, LegionModel

__all__ = ["LegionConfig", "LegionDetector", "LegionModel"]
