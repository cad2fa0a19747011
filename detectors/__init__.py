"""Detectors: models that find the flaws in an image and describe each one as a region."""

from refiner.detectors.registry import load_detector

__all__ = ["load_detector"]
