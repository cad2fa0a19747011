"""Detectors: models that say, region by region, what is wrong with a picture."""

from refiner.detectors.registry import load_detector

__all__ = ["load_detector"]
