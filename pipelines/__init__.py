"""Refinement of diffusers pipelines; torch and diffusers are imported only when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refiner.pipelines.config import RefineConfig
from refiner.pipelines.loop import refine
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.parts import Parts
from refiner.pipelines.refined import RefinedPipeline
from refiner.pipelines.revisers.template import TemplateReviser

if TYPE_CHECKING:
    from refiner.pipelines.calling.output import RefinedPipelineOutput

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
    if name != "RefinedPipelineOutput":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refiner.pipelines.calling.output import RefinedPipelineOutput

    return RefinedPipelineOutput
