"""RefinedPipeline in Python: completion, its text, numbers of numpy, and what is saved of a given image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner import provenance  # noqa: E402
from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, RefinementResult, Region, Size  # noqa: E402

PROMPT = "a red hand left of a green clock"


@pytest.fixture(scope="module")
def base() -> DiffusionPipeline:
    return stable_diffusion()


def refined(base: DiffusionPipeline, **options: Any) -> RefinedPipeline:
    """Its detector finds a smaller flaw each time, so that each inpainted image is kept."""
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        flaw = Region(mask=None, box=(8, 8, 20, 20), name="hand", category=Category.ANATOMY, severity=next(severities))
        return Analysis(size=Size(image.height, image.width), regions=(flaw,), detector="scripted")

    config = RefineConfig(max_rounds=1, strengths=(0.5,))
    settings = {"config": config, "call": {"num_inference_steps": 4}} | options
    return RefinedPipeline(base, detector=ScriptedDetector(look), **settings)


def test_completion_lists_its_own_names_and_those_of_the_wrapped_pipeline(base: DiffusionPipeline) -> None:
    pipe = refined(base)
    names = dir(pipe)
    assert names == sorted(set(names))
    assert {name for name in dir(base) if not name.startswith("_")} <= set(names)
    assert {"stream", "with_parts", "detector", "refine_config", "__call__"} <= set(names)
    missing = {name for name in names if not name.startswith("_") and not hasattr(pipe, name)}
    assert missing == {name for name in missing if name in dir(base) and not hasattr(base, name)}


@pytest.mark.parametrize("inpainter", [False, True])
def test_its_text_is_short_and_names_the_parts(base: DiffusionPipeline, inpainter: bool) -> None:
    pipe = refined(base, inpainter=base if inpainter else None)
    lines = repr(pipe).splitlines()
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 100
    for said in ("StableDiffusionPipeline, float32 on cpu", "detector: scripted", "judge: none", "TemplateReviser"):
        assert any(said in line for line in lines)
    assert any("inpainter" in line for line in lines) == inpainter
    assert str(pipe) == repr(pipe)


def same(one: RefinementResult, other: RefinementResult) -> bool:
    return np.array_equal(np.asarray(one.image), np.asarray(other.image)) and one.settings == other.settings


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)], ids=repr)
def test_seeds_may_be_of_any_kind_of_integer(base: DiffusionPipeline, seed: Any) -> None:
    assert same(refined(base)(PROMPT, seed=seed).results[0], refined(base)(PROMPT, seed=3).results[0])
    assert same(refined(base)([PROMPT], seed=[seed]).results[0], refined(base)([PROMPT], seed=3).results[0])


def test_an_array_of_seeds_is_a_list_of_seeds(base: DiffusionPipeline) -> None:
    results = refined(base)([PROMPT, "a cat"], seed=np.array([3, 4])).results
    assert [result.settings["config"]["seed"] for result in results] == [3, 4]


@pytest.mark.parametrize("seed", [True, 1.5, "1", [1.5], [True], np.array([0.5])], ids=repr)
def test_what_is_no_seed_is_refused(base: DiffusionPipeline, seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        refined(base)(PROMPT, seed=seed)


def test_arguments_of_a_call_may_be_numbers_of_numpy(base: DiffusionPipeline) -> None:
    """They are in the record, as Python's numbers."""
    one, two = np.int64(1), np.int32(2)
    call = {"num_inference_steps": two * 2, "height": one * 64, "width": one * 64, "guidance_scale": np.float32(5)}
    made = refined(base, native=one * 64)(PROMPT, seed=0, max_rounds=one, num_images_per_prompt=two, **call).results[1]
    plain = {name: value.item() for name, value in call.items()}
    usual = refined(base, native=64)(PROMPT, seed=0, max_rounds=1, num_images_per_prompt=2, **plain).results[1]
    assert same(made, usual)
    assert made.settings["unrecorded"] == []
    json.dumps(made.settings)
    defaults = refined(base, call=call, native=64)(PROMPT, seed=0, num_images_per_prompt=2).results[1]
    assert defaults.settings["call"] == made.settings["call"]


@pytest.mark.parametrize("given", ["path", "image"])
def test_what_a_given_image_says_is_in_what_is_saved(base: DiffusionPipeline, tmp_path: Path, given: str) -> None:
    """Transparency, EXIF and texts, through Python."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.putalpha(Image.linear_gradient("L").resize((64, 64)))
    exif, info = Image.Exif(), PngInfo()
    exif[ExifTags.Base.Model] = "camera"
    info.add_text("parameters", "a hand, Steps: 20")
    image.save(tmp_path / "a.png", exif=exif, pnginfo=info)
    with Image.open(tmp_path / "a.png") as file:
        result = refined(base)(PROMPT, image=tmp_path / "a.png" if given == "path" else file, seed=0).results[0]
    assert result.best == 1
    saved = [Path(result.save(str(tmp_path / "out"))["best"]), provenance.save(result, tmp_path / "best.png")]
    for path in saved:
        with Image.open(path) as best:
            best.load()
            assert np.array_equal(np.asarray(best)[..., 3], np.asarray(image)[..., 3])
            assert best.getexif()[ExifTags.Base.Model] == "camera"
            assert best.text["parameters"] == "a hand, Steps: 20"
