"""Different strengths for the rows of a batch and the latent cells of a row: properties on tiny random weights."""

from __future__ import annotations

import copy
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
from support.tiny_pipelines import TINY, flux, stable_diffusion  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import CropInpainter, RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.crops import Crop, Pixels  # noqa: E402
from refiner.pipelines.painting.families import longest_side  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import InpaintJob  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Region, Size  # noqa: E402

pytestmark = [  # in diffusers: Chroma, and schedulers with NumPy 2
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array.*__ :DeprecationWarning"),
]
STEPS = 4
STRENGTHS = (0.3, 1.0, 0.6)
PROMPTS = ("a red hand", "a green clock showing three o'clock left of a cat", "cat")
GATED = [name for name in TINY if name != "sd-inpaint"]
SCHEDULERS = [
    *("DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("UniPCMultistep", "LMSDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "PNDM", "LCM", "TCD"),
]


@functools.cache
def built(name: str) -> DiffusionPipeline:
    return TINY[name].build()


def painter_of(name: str, pipe: DiffusionPipeline | None = None, **options: Any) -> DiffusersPainter:
    tiny = TINY[name]
    usual = {"num_inference_steps": STEPS, **tiny.call, "use_resolution_binning": False}
    return DiffusersPainter(pipe or built(name), PaintSettings(native=tiny.native, options=usual | options))


def crops_of(painter: DiffusersPainter, strengths: Sequence[float] = STRENGTHS) -> list[Crop]:
    """Crops of one size with different images, masks, prompts, seeds and strengths."""
    side, cell = painter.multiple * max(1, 32 // painter.multiple), painter.cell
    crops = []
    for number, strength in enumerate(strengths):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        mask = np.zeros((side, side), dtype=bool)
        mask[cell * (number % 2) : side // 2, : side - number * cell] = True
        crops.append(
            Crop(
                image=Image.fromarray(pixels),
                mask=mask,
                prompt=PROMPTS[number % len(PROMPTS)],
                negative_prompt="blur",
                seed=number,
                strength=strength,
            )
        )
    return crops


def check_as_alone(painter: DiffusersPainter, crops: Sequence[Crop], tolerance: float = 5e-5) -> list[Pixels]:
    together = painter.paint(crops)
    for crop, picture in zip(crops, together, strict=True):
        assert np.abs(picture - painter.paint([crop])[0]).max() <= tolerance
    return together


# Rows


@pytest.mark.parametrize("name", GATED)
def test_a_batch_of_different_strengths_equals_single_runs_at_each(name: str) -> None:
    painter = painter_of(name)
    crops = crops_of(painter)
    together = check_as_alone(painter, crops)
    strong = painter.paint([replace(crop, strength=1.0) for crop in crops[:1]])[0]
    assert np.abs(strong - together[0]).max() > 1e-3


def test_such_a_batch_is_one_call_of_as_many_rows_as_its_strongest_needs() -> None:
    painter = painter_of("sd")
    crops = crops_of(painter, (0.25, 1.0, 0.5))
    painter.paint(crops)
    assert painter.spent().denoiser_rows == 2 * 3 * STEPS
    for crop in crops:
        painter.paint([crop])
    assert painter.spent().denoiser_rows == 2 * 3 * STEPS + 2 * (1 + 4 + 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["sd", "flux", "aura-flow"])
def test_strengths_mix_on_a_gpu(name: str) -> None:
    painter = painter_of(name, TINY[name].build().to("cuda"))
    crops = crops_of(painter)
    check_as_alone(painter, crops, tolerance=1e-3)
    halves = np.where(np.arange(crops[0].mask.shape[1]) % 16 < 8, 1.0, 0.5)
    check_as_alone(painter, [soft(crops[0], halves), *crops[1:]], tolerance=1e-3)


def test_kontext_mixes_strengths_too_and_a_crop_too_long_for_a_model_keeps_its_map() -> None:
    options = {"num_inference_steps": STEPS, "max_sequence_length": 48}
    painter = DiffusersPainter(flux(diffusers.FluxKontextInpaintPipeline), PaintSettings(native=32, options=options))
    check_as_alone(painter, [replace(crop, negative_prompt="") for crop in crops_of(painter)])
    short = painter_of("aura-flow")
    side = longest_side(built("aura-flow"))
    assert side is not None
    mask = np.zeros((side, 2 * side), dtype=bool)
    mask[: side // 2] = True
    crop = Crop(
        image=Image.new("RGB", (2 * side, side), "red"), mask=mask, prompt=PROMPTS[0], negative_prompt="", seed=0,
        strength=1.0,
    )  # fmt: skip
    plain, halved = short.paint([crop])[0], short.paint([soft(crop, np.where(mask, 0.5, 0.0))])[0]
    assert plain.shape == halved.shape == (side, 2 * side, 3)
    assert np.abs(halved - short.paint([replace(crop, strength=0.5)])[0]).max() <= 5e-5
    assert np.abs(halved - plain).max() > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_no_scheduler_sees_that_a_row_has_waited(schedule: str) -> None:
    """Above all, schedulers that remember earlier steps, draw noise, or step twice."""
    base = copy.copy(built("sd"))
    config = dict(base.scheduler.config) | {"prediction_type": "epsilon", "skip_prk_steps": True}
    base.scheduler = getattr(diffusers, f"{schedule}Scheduler").from_config(config)
    painter = painter_of("sd", base, num_inference_steps=5)
    check_as_alone(painter, crops_of(painter))
    check_as_alone(painter, crops_of(painter, (0.8, 0.4, 0.8)))


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(stable_diffusion, diffusers.StableDiffusionInpaintPipeline, nine=True),
        functools.partial(flux, diffusers.FluxFillPipeline, 3 * 16),
    ],
    ids=["nine-channels", "fill"],
)
def test_models_that_are_shown_the_mask_paint_each_strength_in_a_call_of_its_own(build: Any) -> None:
    options = {"num_inference_steps": STEPS, "max_sequence_length": 48}
    painter = DiffusersPainter(build(), PaintSettings(native=32, options=options))
    crops = [replace(crop, negative_prompt="") for crop in crops_of(painter, (0.5, 1.0, 0.5))]
    check_as_alone(painter, crops)
    rows = painter.spent().denoiser_rows
    assert rows % (2 + 4 + 2) == 0
    painter.paint(crops)
    assert painter.spent().denoiser_rows == rows * 3 // 2
    with pytest.raises(ConfigError, match="soft_edge"):
        painter.paint([soft(crops[0], 0.5)])


# Cells


def soft(crop: Crop, change: np.ndarray[Any, Any] | float, strength: float = 1.0) -> Crop:
    return replace(crop, change=np.broadcast_to(change, crop.mask.shape), strength=strength)


@pytest.mark.parametrize("name", GATED)
def test_a_constant_map_is_a_strength_and_a_binary_one_a_mask(name: str) -> None:
    painter = painter_of(name)
    crop = crops_of(painter)[2]
    plain = painter.paint([crop])[0]
    assert np.abs(painter.paint([soft(crop, crop.strength)])[0] - plain).max() <= 5e-5
    everywhere = replace(crop, mask=np.ones_like(crop.mask))
    assert np.abs(painter.paint([soft(everywhere, crop.mask, crop.strength)])[0] - plain).max() <= 5e-5
    columns = np.arange(crop.mask.shape[1]) // painter.cell
    both = soft(everywhere, np.where(columns < columns.max() / 2, 1.0, 0.5))
    alone = painter.paint([both])[0]
    assert np.abs(alone - painter.paint([soft(everywhere, 1.0)])[0]).max() > 1e-3
    assert np.abs(alone - painter.paint([soft(everywhere, 0.5)])[0]).max() > 1e-3
    together = painter.paint([both, crop, soft(crop, 0.3)])
    assert np.abs(together[0] - alone).max() <= 5e-5
    assert np.abs(together[1] - plain).max() <= 5e-5


def test_the_weaker_half_of_a_row_waits_for_its_step() -> None:
    own = stable_diffusion(diffusers.StableDiffusionInpaintPipeline)  # its callbacks get the mask
    painter = painter_of("sd", own)
    crop = replace(crops_of(painter)[0], mask=np.ones((32, 32), dtype=bool))
    seen: list[np.ndarray[Any, Any]] = []

    def note(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["mask"][:1].numpy().copy())
        return tensors

    change = np.ones((32, 32))
    change[:, 16:], change[:8, 24:] = 0.5, 0.0
    watched = painter_of(
        "sd",
        own,
        callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=["latents", "mask"],
        num_inference_steps=8,
    )
    watched.paint([soft(crop, change)])
    shares = change[None, None, ::4, ::4]
    for step, mask in enumerate(seen):
        wanted = (shares > 0) & (np.round(8 * (1 - shares)) <= step)
        assert np.array_equal(mask, wanted), step
    assert len(seen) == 8


# Settings


class Model:
    """Returns grey crops and records its input."""

    def __init__(self) -> None:
        self.batches: list[list[Crop]] = []

    def __call__(self, crops: Sequence[Crop]) -> list[Pixels]:
        self.batches.append(list(crops))
        return [np.full((*crop.mask.shape, 3), 0.5, dtype=np.float32) for crop in crops]


def jobs(*strengths: float) -> list[InpaintJob]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[16:48, 16:48] = True
    return [
        InpaintJob(image=picture, mask=mask, prompt="x", seed=seed, strength=strength)
        for seed, strength in enumerate(strengths)
    ]


@pytest.mark.parametrize(
    ("spread", "wanted"),
    [
        (0.0, [[0, 3], [1], [2], [4]]),
        (0.1, [[0, 3], [1, 4], [2]]),
        (0.15, [[0, 2, 3], [1, 4]]),
        (1.0, [[0, 1, 2, 3, 4]]),
    ],
)
def test_strengths_that_are_close_enough_share_a_batch(spread: float, wanted: list[list[int]]) -> None:
    model = Model()
    inpainter = CropInpainter(model, native=64, multiple=8, cell=4, config=RefineConfig(mixed_strengths=spread))
    inpainter.inpaint(jobs(0.85, 0.4, 0.7, 0.85, 0.3))
    assert [[crop.seed for crop in batch] for batch in model.batches] == wanted


def test_a_soft_edge_rises_from_the_masks_edge_to_its_middle() -> None:
    for share, least in ((0.0, None), (0.05, 0.2), (0.5, 0.05)):
        model = Model()
        config = RefineConfig(soft_edge=share, crop_min_side=1.0)
        (job,) = jobs(0.8)
        picture = CropInpainter(model, native=64, multiple=8, cell=4, config=config).inpaint([job])[0]
        assert np.array_equal(np.asarray(picture)[~job.mask], np.asarray(job.image)[~job.mask])
        (crop,) = model.batches[0]
        if least is None:
            assert crop.change is None
            continue
        line = crop.change[32]
        assert crop.change.dtype == np.float32
        assert crop.change.max() == 1
        assert not crop.change[~crop.mask].any()
        assert line[16] < 1
        assert (np.diff(line[16:32]) >= 0).all()
        assert (np.diff(line[32:48]) <= 0).all()
        assert line[32] == 1
        assert np.array_equal(crop.change, crop.change[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("settings", [{"soft_edge": -0.1}, {"mixed_strengths": 1.1}, {"mixed_strengths": -0.1}])
def test_settings_out_of_their_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"RefineConfig\.\w+ must be"):
        RefineConfig(**settings)


def test_soft_edges_are_refused_before_anything_is_painted_where_the_model_knows_none() -> None:
    pipe = stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True)
    own = RefinedPipeline(pipe, detector=ScriptedDetector(lambda image: None), config=RefineConfig(soft_edge=0.1))
    with pytest.raises(ConfigError, match="soft_edge"):
        own("a red hand", seed=0)


def test_strengths_by_severity_and_soft_edges_through_the_public_door() -> None:
    boxes, severities = ((4, 4, 24, 24), (40, 4, 60, 24), (20, 40, 40, 60)), (1.0, 0.6, 0.3)
    factors = iter(0.5**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        factor = next(factors)
        found = tuple(
            Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=factor * severity)
            for box, severity in zip(boxes, severities, strict=True)
        )
        return Analysis(size=Size(image.height, image.width), regions=found, detector="relenting")

    usual = RefineConfig(
        max_rounds=1, strategy="inpaint", strengths=(1.0,), severity_strength=1.0, mixed_strengths=1.0, dilate=0,
        min_burden_drop=0.0,
    )  # fmt: skip
    given = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    results = []
    for config in (usual, replace(usual, mixed_strengths=0.0), replace(usual, soft_edge=0.1)):
        factors = iter(0.5**n for n in range(1000))
        own = RefinedPipeline(
            built("sd"), detector=ScriptedDetector(look), config=config, call={"num_inference_steps": 10}
        )
        results.append(own("a red hand", image=given, seed=0).results[0])
    mixed, apart, soft_edged = (result.attempts[1] for result in results)
    assert mixed.accepted
    assert mixed.calls.denoiser_rows == 2 * 3 * 10
    assert apart.calls.denoiser_rows == 2 * (10 + 6 + 3)
    assert np.abs(np.asarray(mixed.image).astype(int) - np.asarray(apart.image)).max() <= 1
    assert (np.asarray(mixed.image) != np.asarray(soft_edged.image)).any()
    for attempt in (mixed, apart, soft_edged):
        changed = (np.asarray(attempt.image) != np.asarray(given)).any(axis=2)
        assert all(changed[y0:y1, x0:x1].mean() > 0.5 for x0, y0, x1, y1 in boxes)
        for x0, y0, x1, y1 in boxes:
            changed[y0:y1, x0:x1] = False
        assert not changed.any()
