"""ControlNets control generation and inpainting: properties on tiny random weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel  # noqa: E402
from support.tiny_pipelines import controlnet, flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import CropInpainter, RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.controls import cut_out  # noqa: E402
from refiner.pipelines.painting.crops import Crop, Pixels  # noqa: E402
from refiner.pipelines.painting.families import takes  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import InpaintJob  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, RefinementResult, Region, Size  # noqa: E402

pytestmark = [  # in diffusers
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
STEPS = 4
PROMPT = "a red hand left of a green clock"
SHORT = {"max_sequence_length": 48, "num_inference_steps": STEPS}
STEERED = {
    "sd": (stable_diffusion, diffusers.StableDiffusionControlNetPipeline),
    "sdxl": (stable_diffusion_xl, diffusers.StableDiffusionXLControlNetPipeline),
    "sd3": (stable_diffusion_3, diffusers.StableDiffusion3ControlNetPipeline),
    "flux": (flux, diffusers.FluxControlNetPipeline),
}
CROP = (0, 0, 32, 32)
"""The box that is cut out around the flaw, of an image of 64 x 64 pixels."""
CONFIG = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint", dilate=0, crop_padding=0.5, crop_min_side=0.5)


@functools.cache
def built(name: str) -> DiffusionPipeline:
    build, cls = STEERED[name]
    return build(cls)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def relenting() -> ScriptedDetector:
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        region = Region(
            mask=None, box=(8, 8, 24, 24), name="the hand", category=Category.ANATOMY, severity=next(severities)
        )
        return Analysis(size=Size(image.height, image.width), regions=(region,), detector="relenting")

    return ScriptedDetector(look)


def short(pipe: DiffusionPipeline) -> dict[str, Any]:
    return {name: value for name, value in SHORT.items() if name in takes(pipe)}


def mended(pipe: DiffusionPipeline, given: Image.Image | None = None, **options: Any) -> RefinementResult:
    own = RefinedPipeline(pipe, detector=relenting(), config=CONFIG, call=short(pipe), native=64)
    return own(PROMPT, seed=1, start_image=given, **options).results[0]


def with_square(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    changed = picture.copy()
    changed.paste((255, 0, 255), box)
    return changed


@pytest.mark.parametrize("name", STEERED)
def test_the_control_image_steers_painting_and_repainting_where_the_crop_is(name: str) -> None:
    pipe, given, control = built(name), noise(64, 64, 1), noise(64, 64, 2)
    painted = [mended(pipe, control_image=each).attempts[0].image.tobytes() for each in (control, noise(64, 64, 3))]
    assert painted[0] != painted[1]
    plain, again, inside, outside = (
        mended(pipe, given, control_image=each).image.tobytes()
        for each in (control, control, with_square(control, (4, 4, 20, 20)), with_square(control, (40, 4, 60, 60)))
    )
    assert plain == again == outside
    assert plain != inside
    without = mended(pipe, given)
    assert without.best == 1
    assert without.image.tobytes() not in (plain, given.tobytes())


def crops(strengths: Sequence[float], places: Sequence[tuple[int, int, int, int]]) -> list[Crop]:
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, 8:24] = True
    return [
        Crop(
            image=noise(32, 32, seed), mask=mask, prompt=PROMPT[: 10 + 7 * seed], negative_prompt="", seed=seed,
            strength=strength, place=(place, Size(64, 64)),
        )
        for seed, (strength, place) in enumerate(zip(strengths, places, strict=True))
    ]  # fmt: skip


@pytest.mark.parametrize("name", STEERED)
@pytest.mark.parametrize("options", [{}, {"control_guidance_end": 0.5}], ids=["throughout", "half of it"])
def test_a_batch_equals_single_runs_whatever_their_places_and_strengths(name: str, options: dict[str, Any]) -> None:
    painter = DiffusersPainter(
        built(name), PaintSettings(native=32, options={**SHORT, "control_image": noise(64, 64), **options})
    )
    rows = crops((0.5, 1.0, 0.8), ((0, 0, 32, 32), (32, 16, 64, 48), (0, 0, 64, 64)))
    together = painter.paint(rows)
    for row, picture in zip(rows, together, strict=True):
        assert np.abs(picture - painter.paint([row])[0]).max() <= 5e-5
    moved = painter.paint([replace(rows[0], place=rows[1].place)])[0]
    assert np.abs(moved - together[0]).max() > 1e-4


# How it is cut out


class Model:
    def __init__(self) -> None:
        self.crops: list[Crop] = []

    def __call__(self, crops: Sequence[Crop]) -> list[Pixels]:
        self.crops += crops
        return [np.zeros((*crop.mask.shape, 3), dtype=np.float32) + 0.5 for crop in crops]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [Size(64, 64), Size(53, 131)])
def test_it_is_cut_out_and_resized_as_the_picture_is(size: Size, whole: bool) -> None:
    picture, model = noise(*size), Model()
    mask = np.zeros(tuple(size), dtype=bool)
    mask[20:31, 37:50] = True
    job = InpaintJob(image=picture, mask=mask, prompt=PROMPT, seed=0, strength=0.5, whole=whole)
    CropInpainter(model, native=48, multiple=16, cell=4, config=RefineConfig()).inpaint([job])
    wanted = np.stack([np.asarray(crop.image, dtype=np.float32) / 255 for crop in model.crops])
    assert np.array_equal(cut_out(picture, model.crops, several=False), wanted)
    both = cut_out([picture, noise(*size, 5)], model.crops, several=True)
    assert np.array_equal(both[0], wanted)
    assert not np.array_equal(both[1], wanted)
    larger = picture.resize((size.width * 2, size.height * 2), Image.Resampling.NEAREST)
    assert np.abs(cut_out(larger, model.crops, several=False) - wanted).mean() < 0.05


def test_pictures_arrays_and_tensors_are_one() -> None:
    picture = noise(64, 64)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    rows = crops((0.5,), (CROP,))
    wanted = cut_out(picture, rows, several=False)
    for same in ([picture], array, array[None], array / 255, tensor, tensor[None].half(), [array]):
        assert np.abs(cut_out(same, rows, several=False) - wanted).max() <= 1 / 255
    assert cut_out(picture.convert("L"), rows, several=False).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("wrong", [3, [], np.zeros((8, 8)), torch.zeros(2, 3, 8, 8), "edges.png", [None, None]])
def test_what_is_no_control_image_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="Expected a control image"):
        cut_out(wrong, crops((0.5,), (CROP,)), several=False)


# Several ControlNets, and a ControlNet only for inpainting


def test_several_controlnets_have_an_image_each() -> None:
    base = built("sd")
    torch.manual_seed(5)
    nets = MultiControlNetModel([base.controlnet, controlnet(cross_attention_dim=32)])
    pipe = type(base)(**{**base.components, "controlnet": nets}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    given, first, second = noise(64, 64, 1), noise(64, 64, 2), noise(64, 64, 3)
    results = [
        mended(pipe, given, control_image=images).image.tobytes()
        for images in ([first, second], [second, first], [first, with_square(second, (40, 4, 60, 60))])
    ]
    assert results[0] == results[2] != results[1]


def test_an_inpainter_with_a_controlnet_has_its_own_control_image() -> None:
    steered = built("sd")
    own = diffusers.StableDiffusionControlNetInpaintPipeline(**steered.components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    pipe, given, control = stable_diffusion(), noise(64, 64, 1), noise(64, 64, 2)
    pictures = []
    for image in (control, with_square(control, (4, 4, 20, 20)), with_square(control, (40, 4, 60, 60))):
        refined = RefinedPipeline(
            pipe, detector=relenting(), config=CONFIG, call=short(pipe), native=64, inpainter=own,
            inpaint_call={"num_inference_steps": STEPS, "control_image": image},
        )  # fmt: skip
        pictures.append(refined(PROMPT, seed=1, start_image=given).images[0].tobytes())
    assert pictures[0] == pictures[2] != pictures[1]
    alone = RefinedPipeline(own, detector=relenting(), config=CONFIG, call=short(own) | {"control_image": control})
    assert alone(PROMPT, seed=1).results[0].best == 1
