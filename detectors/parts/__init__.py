"""A detector of parts that are always regenerated: hands, faces, text, or other parts given by words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.family import Family, lazy_names

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.detectors.parts.detector import REASONING, PartsDetector, load_parts

__all__ = ["FAMILY", "REASONING", "PartsDetector", "load_parts"]

_DETECTOR = "refiner.detectors.parts.detector"
__getattr__ = lazy_names(
    "refiner.detectors.parts", dict.fromkeys(("REASONING", "PartsDetector", "load_parts"), _DETECTOR)
)


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> PartsDetector:
    from refiner.detectors.parts.detector import load_parts

    return load_parts(model.model, **model.options, device=device, dtype=dtype)


FAMILY = Family(name="parts", load=_load, options=("grounder",), needs_folder=False, usage=("parts:<names>@<model>",))
