"""LEGION: Learning to Ground and Explain for Synthetic Image Detection (papers/legion.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.detectors.family import Family, lazy_names
from refiner.detectors.legion.layouts import is_original, is_ours

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.detectors.legion.detector import LegionDetector
    from refiner.detectors.legion.modeling import LegionConfig, LegionModel

__all__ = ["FAMILY", "LegionConfig", "LegionDetector", "LegionModel"]

_HOME = "refiner.detectors.legion"
__getattr__ = lazy_names(
    _HOME,
    {
        "LegionConfig": f"{_HOME}.modeling",
        "LegionDetector": f"{_HOME}.detector",
        "LegionModel": f"{_HOME}.modeling",
    },
)


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> LegionDetector:
    from refiner.detectors.legion.detector import LegionDetector

    return LegionDetector.from_pretrained(model.model, device=device, dtype=dtype)


def _recognise(config: Mapping[str, Any], _folder: Path) -> bool:
    return is_ours(config) or is_original(config)


FAMILY = Family(name="legion", load=_load, recognise=_recognise)
