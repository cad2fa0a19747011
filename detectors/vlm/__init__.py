"""Detectors that use any vision-language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.detectors.family import Family, lazy_names

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.detectors.vlm.detector import VlmDetector, load_vlm

__all__ = ["FAMILY", "VlmDetector", "load_vlm"]

__getattr__ = lazy_names(
    "refiner.detectors.vlm", dict.fromkeys(("VlmDetector", "load_vlm"), "refiner.detectors.vlm.detector")
)


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> VlmDetector:
    from refiner.detectors.vlm.detector import DEFAULT_MODEL, load_vlm

    name = model.model or DEFAULT_MODEL
    return load_vlm(name, base_url=model.base_url, **model.options, device=device, dtype=dtype)


def _recognise(config: Mapping[str, Any], _folder: Path) -> bool:
    return config.get("model_type") in ("qwen2_5_vl", "qwen3_vl")


FAMILY = Family(
    name="vlm",
    load=_load,
    recognise=_recognise,
    options=("grounder", "cache"),
    endpoint=True,
    needs_folder=False,
    usage=("vlm:<folder or hub id>", "vlm:<model>@<base url>"),
)
