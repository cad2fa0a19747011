"""Generator-side refinement for diffusion pipelines: detect flaws, fix them, keep only what is better.

``import refiner`` loads neither torch nor diffusers nor transformers; they are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from refiner.detectors import load_detector
    from refiner.errors import ModelError, RefinerError, UserError
    from refiner.images import load_image
    from refiner.pipelines import RefineConfig, RefinedPipeline
    from refiner.taxonomy import Category
    from refiner.types import Analysis, Attempt, RefinementResult, Region

_HOMES = {
    "Analysis": "refiner.types",
    "Attempt": "refiner.types",
    "Category": "refiner.taxonomy",
    "ModelError": "refiner.errors",
    "RefineConfig": "refiner.pipelines",
    "RefinedPipeline": "refiner.pipelines",
    "RefinementResult": "refiner.types",
    "RefinerError": "refiner.errors",
    "Region": "refiner.types",
    "UserError": "refiner.errors",
    "load_detector": "refiner.detectors",
    "load_image": "refiner.images",
}

__all__ = [
    "Analysis",
    "Attempt",
    "Category",
    "ModelError",
    "RefineConfig",
    "RefinedPipeline",
    "RefinementResult",
    "RefinerError",
    "Region",
    "UserError",
    "load_detector",
    "load_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'refiner' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
