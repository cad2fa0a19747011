"""A detector that finds flaws in the features of the generator's denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.detectors.family import Family, lazy_names
from refiner.detectors.probe.config import MODEL_TYPE, ProbeConfig

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.detectors.probe.detector import DenoiserFeatures, Probe, ProbeDetector

__all__ = ["FAMILY", "DenoiserFeatures", "Probe", "ProbeConfig", "ProbeDetector"]

__getattr__ = lazy_names(
    "refiner.detectors.probe",
    dict.fromkeys(("DenoiserFeatures", "Probe", "ProbeDetector"), "refiner.detectors.probe.detector"),
)


def _load(model: ModelId, device: str | torch.device | None, _dtype: torch.dtype | None) -> ProbeDetector:
    from refiner.detectors.probe.detector import ProbeDetector

    return ProbeDetector.from_pretrained(model.model, device=device)


def _recognise(config: Mapping[str, Any], _folder: Path) -> bool:
    return config.get("model_type") == MODEL_TYPE


FAMILY = Family(name="probe", load=_load, recognise=_recognise)
