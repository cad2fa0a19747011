"""Pipelines that are loaded onto a machine: every part is where it runs, and images do not depend on offloading."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner.errors import ModelNotFoundError  # noqa: E402
from refiner.machine import Machine  # noqa: E402
from refiner.pipelines import RefinedPipeline  # noqa: E402
from refiner.pipelines.loading.placing import load_refined  # noqa: E402

CPU = torch.device("cpu")
OFFLOADS = ("none", "model", "sequential", "group")
PLUGIN = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    mask = np.zeros((image.height, image.width), dtype=bool)
    mask[4:20, 4:20] = True
    severity = float(np.asarray(image)[mask].mean()) / 255
    region = Region(mask=mask, box=(4, 4, 20, 20), name="hand", category=Category.ANATOMY, severity=severity)
    return Analysis(size=Size(*mask.shape), detector="bright", regions=(region,))

def build(folder, device, dtype):
    return ScriptedDetector(answer, name=str(device).partition(":")[0])
"""


@pytest.fixture
def detector(write_plugin: Callable[[Path, str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of a detector that is named after the device that it is loaded for."""
    name = write_plugin(tmp_path / "plugin", "bright_for_placing", PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.delitem(sys.modules, "bright_for_placing", raising=False)
    return name


@pytest.fixture
def saved(detector: str, tmp_path: Path) -> Path:
    """Folder of a saved RefinedPipeline with an inpainter of its own."""
    inpainter = stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True)
    call = {"num_inference_steps": 2}
    RefinedPipeline(
        stable_diffusion(), detector=detector, inpainter=inpainter, call=call, inpaint_call=call, native=32
    ).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("offload", OFFLOADS)
def test_saved_parts_are_loaded_where_they_run(saved: Path, offload: Any) -> None:
    pipe = load_refined(saved, Machine(device=CPU, offload=offload))
    assert pipe.detector.name == "cpu"
    assert pipe.ids["model"] == str(saved)
    assert pipe.inpainter is not None
    for each in (pipe.pipe, pipe.inpainter):
        assert each._execution_device.type == "cpu"
        hooked = any(
            hasattr(module, name) for module in each.unet.modules() for name in ("_hf_hook", "_diffusers_hook")
        )
        assert hooked == (offload != "none")


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_image(saved: Path, offload: Any) -> None:
    plain, offloaded = (
        load_refined(saved, Machine(device=CPU, offload=way)).stream("a red hand", seed=1, max_rounds=1).result
        for way in ("none", offload)
    )
    assert len(plain.attempts) == 2
    assert [each.image.tobytes() for each in plain.attempts if each.image] == [
        each.image.tobytes() for each in offloaded.attempts if each.image
    ]


def test_a_loaded_pipeline_equals_one_from_pretrained(saved: Path) -> None:
    one = load_refined(saved, Machine(device=CPU)).stream("a red hand", seed=1, max_rounds=1).result
    other = RefinedPipeline.from_pretrained(saved).stream("a red hand", seed=1, max_rounds=1).result
    assert one.image.tobytes() == other.image.tobytes()
    assert one.settings == other.settings


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_detector_follows_a_pipeline_that_is_already_offloaded(detector: str, offload: Any) -> None:
    pipe = stable_diffusion()
    Machine(device=CPU, offload=offload).place(pipe)
    assert RefinedPipeline(pipe, detector=detector).detector.name == "cpu"


@pytest.mark.parametrize("part", ["inpainter", "second_stage"])
def test_a_further_pipeline_that_does_not_exist_is_refused_first(part: str) -> None:
    with pytest.raises(ModelNotFoundError, match="/no/such"):
        load_refined("micro", Machine(device=CPU), **{part: "/no/such"})
