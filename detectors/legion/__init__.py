"""LEGION: Learning to Ground and Explain for Synthetic Image Detection (papers/legion.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.family import Family, loader
from refiner.detectors.gated import GatedDetector
from refiner.detectors.ids import ModelId
from refiner.detectors.legion.layouts import is_original, is_ours
from refiner.detectors.registry import detector_needs, load_detector
from refiner.hub import locate

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs
    from refiner.protocols import Detector

__all__ = ["FAMILY"]

_LOAD = loader("refiner.detectors.legion.detector:LegionDetector.from_pretrained")


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> Detector:
    options = dict(model.options)
    gate = options.pop("gate", None)
    judge = None if gate is None else load_detector(gate, device, dtype)
    detector = _LOAD(ModelId(model=model.model, options=options), device, dtype)
    return detector if judge is None else GatedDetector(detector, judge)


def _needs(model: ModelId) -> Needs:
    gate = model.options.get("gate")
    return [locate(model.model, "detector"), *(detector_needs(gate) if gate else ())]


FAMILY = Family(
    name="legion",
    load=_load,
    recognise=lambda config, _folder: is_ours(config) or is_original(config),
    options=("device_map", "gate", "quantize"),
    needs=_needs,
)
