"""Refinement of diffusers pipelines; torch and diffusers are imported only when they are needed."""

from refiner.pipelines.call import RefinedPipelineOutput
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.loop import Parts, refine
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.refined import RefinedPipeline
from refiner.pipelines.revisers.template import TemplateReviser

__all__ = [
    "CropInpainter",
    "Parts",
    "RefineConfig",
    "RefinedPipeline",
    "RefinedPipelineOutput",
    "TemplateReviser",
    "refine",
]
