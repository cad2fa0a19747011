"""X-AIGD's detector (arXiv 2601.19430): a verdict, and the seven categories of perceptual artifacts as masks."""

from __future__ import annotations

from refiner.detectors.family import Family, loader
from refiner.detectors.xaigd.config import MODEL_TYPE

__all__ = ["FAMILY"]

FAMILY = Family(
    name="xaigd",
    load=loader("refiner.detectors.xaigd.detector:load_xaigd"),
    recognise=lambda config, _folder: config.get("model_type") == MODEL_TYPE,
    options=("heatmap", "regions"),
    usage=("xaigd:<folder or hub id>",),
)
