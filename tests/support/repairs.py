"""Refinements in which one region is inpainted and kept, to compare the calls of a pipeline before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.pipelines import RefineConfig, RefinedPipeline
from refiner.taxonomy import Category
from refiner.types import Analysis, RefinementResult, Region, Size

STEPS = 4
PROMPT = "a red hand left of a green clock"
BOX = (8, 8, 20, 20)
NOISE = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
"""Filters for warnings of diffusers' own code, for ``pytestmark``."""


def relenting() -> ScriptedDetector:
    """A detector that finds a flaw that is less severe each time, so that every inpainted image is kept."""
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        region = Region(mask=None, box=BOX, name="the hand", category=Category.ANATOMY, severity=next(severities))
        return Analysis(size=Size(image.height, image.width), regions=(region,), detector="relenting")

    return ScriptedDetector(look)


def refined(pipe: DiffusionPipeline, **options: Any) -> RefinedPipeline:
    config = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint")
    return RefinedPipeline(
        pipe,
        detector=relenting(),
        config=config,
        call={"num_inference_steps": STEPS} | options.pop("call", {}),
        **options,
    )


def mended(pipe: RefinedPipeline, **options: Any) -> RefinementResult:
    """A refinement whose second image differs from the first only in the flaw's region."""
    pipe.detector = relenting()
    result = pipe(PROMPT, seed=1, **options).results[0]
    assert [attempt.action for attempt in result.attempts] == ["generate", "inpaint"]
    assert result.best == 1, result.attempts[1].error
    start, end = (np.asarray(attempt.image) for attempt in result.attempts)
    painted = result.attempts[1].painted
    assert painted.any()
    assert not (start != end).any(axis=2)[~painted].any()
    assert not painted[26:].any()
    return result


def pictures(result: RefinementResult) -> list[bytes]:
    return [attempt.image.tobytes() for attempt in result.attempts]


def weights(pipe: DiffusionPipeline) -> dict[str, tuple[int, float]]:
    return {
        f"{name}.{key}": (value.data_ptr(), float(value.double().sum()))
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }
