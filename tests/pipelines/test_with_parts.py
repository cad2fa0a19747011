"""The same pipeline with other parts: all other arguments stay, and all weights are shared."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest

torch = pytest.importorskip("torch")

from support.tiny_pipelines import flux_klein, stable_diffusion, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline, TemplateReviser  # noqa: E402
from refiner.pipelines.judges import BurdenJudge  # noqa: E402
from refiner.types import Analysis, Size  # noqa: E402

ARGUMENTS = sorted(inspect.signature(RefinedPipeline.__init__).parameters.keys() - {"self", "pipe"})
ATTRIBUTES = {"config": "refine_config", "call": "call_defaults", "inpaint_call": "inpaint_call_defaults"}
ATTRIBUTES |= {"edit_call": "edit_call_defaults"}


def clean() -> ScriptedDetector:
    return ScriptedDetector(lambda image: Analysis(size=Size(image.height, image.width), detector="clean"))


def arguments(number: int) -> dict[str, Any]:
    """A value for every argument, different for each number."""
    return {
        "detector": clean(),
        "judge": BurdenJudge(clean()),
        "reviser": TemplateReviser(),
        "config": RefineConfig(max_rounds=number),
        "call": {"num_inference_steps": number},
        "inpainter": stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True),
        "inpaint_call": {"guidance_scale": float(number)},
        "second_stage": stable_diffusion_xl(diffusers.StableDiffusionXLImg2ImgPipeline),
        "editor": flux_klein(),
        "edit_call": {"guidance_scale": float(number)},
        "native": 16 * number,
    }


def values(pipe: RefinedPipeline) -> dict[str, Any]:
    return {name: getattr(pipe, ATTRIBUTES.get(name, name)) for name in ARGUMENTS}


@pytest.fixture(scope="module")
def first() -> RefinedPipeline:
    return RefinedPipeline(stable_diffusion_xl(), **arguments(2))


@pytest.fixture(scope="module")
def others() -> dict[str, Any]:
    return arguments(3)


@pytest.mark.parametrize("changed", ARGUMENTS)
def test_only_what_is_named_changes(first: RefinedPipeline, others: dict[str, Any], changed: str) -> None:
    before = values(first)
    again = first.with_parts(**{changed: others[changed]})
    assert again.pipe is first.pipe
    for name, value in values(again).items():
        wanted = others if name == changed else before
        if isinstance(value, dict | int | RefineConfig):
            assert value == wanted[name]
        else:
            assert value is wanted[name]
    assert values(first) == before


def test_a_judge_can_be_left_out(first: RefinedPipeline) -> None:
    assert first.with_parts(judge=None).judge is None


def test_ids_stay_except_those_of_other_parts(first: RefinedPipeline, model: str) -> None:
    pipe = RefinedPipeline.from_pretrained(model, detector="micro", judge=["micro"], inpainter=model)
    ids = dict(pipe.ids)
    assert ids.keys() == {"model", "detector", "judge", "inpainter"}
    assert pipe.with_parts(config=RefineConfig()).ids == ids
    del ids["judge"]
    assert pipe.with_parts(detector="joint:micro+micro", judge=None).ids == ids | {"detector": "joint:micro+micro"}
    del ids["detector"]
    assert pipe.with_parts(detector=clean(), judge=None).ids == ids


def test_an_interrupt_of_one_ends_the_runs_of_both(first: RefinedPipeline) -> None:
    pipe = RefinedPipeline(stable_diffusion(), detector=clean(), call={"num_inference_steps": 1})
    run = pipe.with_parts(detector=clean()).stream("a hand")
    pipe.interrupt()
    assert run.result.stop == "interrupted"


def test_an_argument_that_there_is_not_is_refused(first: RefinedPipeline) -> None:
    with pytest.raises(TypeError, match="detectr"):
        first.with_parts(detectr=clean())
