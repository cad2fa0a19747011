"""Refinement of diffusers pipelines; torch and diffusers are imported only when they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refiner.pipelines.calling.output import RefinedPipelineOutput
    from refiner.pipelines.config import RefineConfig
    from refiner.pipelines.loop import refine
    from refiner.pipelines.painting.crops import CropInpainter
    from refiner.pipelines.parts import Parts
    from refiner.pipelines.refined import RefinedPipeline
    from refiner.pipelines.revisers.template import TemplateReviser

_HOMES = {
    "CropInpainter": "painting.crops",
    "Parts": "parts",
    "RefineConfig": "config",
    "RefinedPipeline": "refined",
    "RefinedPipelineOutput": "calling.output",
    "TemplateReviser": "revisers.template",
    "refine": "loop",
}

__all__ = [
    "CropInpainter",
    "Parts",
    "RefineConfig",
    "RefinedPipeline",
    "RefinedPipelineOutput",
    "TemplateReviser",
    "refine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
