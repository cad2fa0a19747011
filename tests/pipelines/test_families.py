"""Properties of every family of pipelines, on tiny random weights that are built here: no hub."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from support.tiny_pipelines import TINY  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.pipelines import CropInpainter, RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.blending import blended  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import family_of  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import InpaintJob, PaintJob  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Region, Size  # noqa: E402

pytestmark = [  # in diffusers: Chroma, and schedulers with NumPy 2
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array.*__ :DeprecationWarning"),
]
STEPS = 4
PROMPTS = ("a red hand", "a green clock showing three o'clock left of a cat", "cat")
NAMES = list(TINY)
BLENDED = [name for name in NAMES if name != "sd-inpaint"]


@functools.cache
def built(name: str) -> DiffusionPipeline:
    return TINY[name].build()


def painter_of(name: str, **settings: Any) -> DiffusersPainter:
    tiny = TINY[name]
    options = {"num_inference_steps": STEPS, **tiny.call}
    own = {"use_resolution_binning": True}  # must not affect crops
    return DiffusersPainter(
        built(name), PaintSettings(native=tiny.native, options=options, inpaint_options=own, **settings)
    )


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def crops_of(painter: DiffusersPainter, count: int, strength: float = 0.6, negative: str = "blur") -> list[Crop]:
    """Crops of one size with different images, masks, prompts and seeds."""
    side, cell = painter.multiple * max(1, 32 // painter.multiple), painter.cell
    crops = []
    for number in range(count):
        mask = np.zeros((side, side), dtype=bool)
        mask[cell * (number % 2) : side // 2, : side - number * cell] = True
        crops.append(
            Crop(
                image=noise(side, side, number),
                mask=mask,
                prompt=PROMPTS[number],
                negative_prompt=negative,
                seed=number,
                strength=strength,
            )
        )
    return crops


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_regions_equals_single_runs_and_its_rows_are_counted(name: str) -> None:
    painter = painter_of(name)
    crops = crops_of(painter, len(PROMPTS), strength=0.5)
    together = painter.paint(crops)
    steps = STEPS // 2
    rows = painter.spent().denoiser_rows
    assert rows == len(crops) * steps * TINY[name].rows_with_negative
    for crop, picture in zip(crops, together, strict=True):
        alone = painter.paint([crop])[0]
        assert picture.shape == alone.shape == (*crop.mask.shape, 3)
        assert np.abs(picture - alone).max() <= 5e-5
    assert painter.spent().denoiser_rows == 2 * rows
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_any_size_and_ratio_change_inside_the_mask_alone(name: str) -> None:
    painter = painter_of(name)
    config = RefineConfig(batch_size=2)
    inpainter = CropInpainter(
        painter.paint, native=painter.native, multiple=painter.multiple, cell=painter.cell, config=config
    )
    jobs = []
    for number, (height, width) in enumerate(((53, 71), (131, 19))):
        mask = np.zeros((height, width), dtype=bool)
        mask[7:29, 3:17] = True
        jobs.append(
            InpaintJob(
                image=noise(height, width),
                mask=mask,
                prompt=PROMPTS[number],
                seed=number,
                strength=0.5,
                whole=bool(number),
            )
        )
    for job, picture in zip(jobs, inpainter.inpaint(jobs), strict=True):
        assert picture.size == job.image.size
        changed = (np.asarray(picture) != np.asarray(job.image)).any(axis=2)
        assert changed[job.mask].mean() > 0.5
        assert not changed[~job.mask].any()


def relenting() -> ScriptedDetector:
    """Finds a flaw that is less severe each time, so that every inpainted image is kept."""
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        region = Region(
            mask=None, box=(8, 8, 20, 20), name="the hand", category=Category.ANATOMY, severity=next(severities)
        )
        return Analysis(size=Size(image.height, image.width), regions=(region,), detector="relenting")

    return ScriptedDetector(look)


def refined(name: str, **options: Any) -> RefinedPipeline:
    tiny = TINY[name]
    return RefinedPipeline(
        built(name),
        detector=relenting(),
        config=RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint"),
        call={"num_inference_steps": STEPS, **tiny.call},
        native=tiny.native,
        **options,
    )


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Everything that a user could find changed in a pipeline."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    # transformers adds hooks to text encoders in their first run.
    inner = [module for name, part in parts.items() if "text" not in name for module in part.modules()]
    return {
        "components": {name: id(part) for name, part in pipe.components.items()},
        "attributes": {name for name in vars(pipe) if not name.startswith("_")},
        "config": dict(pipe.config),
        "scheduler": dict(pipe.scheduler.config),
        "progress": dict(pipe._progress_bar_config),
        "callbacks": list(getattr(pipe, "_callback_tensor_inputs", [])),
        "configs": {name: str(part.config) for name, part in parts.items()},
        "weights": {
            f"{name}.{key}": (value.dtype, value.device, value.data_ptr(), float(value.double().sum()))
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        },
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in inner],
        "methods": [{"forward", "_compiled_call_impl"} & vars(module).keys() for module in inner],
        "training": [module.training for module in inner],
        "processors": [id(module.processor) for module in inner if hasattr(module, "processor")],
    }


@pytest.mark.parametrize("name", NAMES)
def test_it_refines_by_seed_and_leaves_the_pipeline_as_it_was(name: str) -> None:
    pipe = refined(name)
    before, chance = state(pipe.pipe), torch.get_rng_state()
    first, again, other = (refined(name)(PROMPTS[1], seed=seed).results[0] for seed in (3, 3, 4))
    assert [attempt.action for attempt in first.attempts] == ["generate", "inpaint"]
    assert first.best == 1
    assert first.attempts[0].calls.denoiser_rows == STEPS * TINY[name].rows
    assert first.attempts[1].calls.denoiser_rows == STEPS // 2 * TINY[name].rows
    start, end = (np.asarray(attempt.image) for attempt in first.attempts)
    painted = first.attempts[1].painted
    assert painted.any()
    assert np.array_equal(start[~painted], end[~painted])
    assert not painted[-8:].any()
    assert [one.image.tobytes() for one in first.attempts] == [one.image.tobytes() for one in again.attempts]
    assert other.attempts[0].image.tobytes() != first.attempts[0].image.tobytes()
    assert state(pipe.pipe) == before
    assert torch.equal(torch.get_rng_state(), chance)


def noting(cls: type, seen: list[str]) -> type:
    class Noting(cls):
        @functools.wraps(cls.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("step")
            return super().step(*args, **kwargs)

    return Noting


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_set_on_the_wrapper_reaches_generating_and_inpainting(name: str) -> None:
    seen: list[str] = []
    pipe, old = refined(name), built(name).scheduler
    try:
        pipe.scheduler = noting(type(old), seen).from_config(old.config)
        assert pipe.pipe.scheduler is pipe.scheduler
        painter = painter_of(name)
        painter.generate([PaintJob(prompt=PROMPTS[0], seed=0)])
        assert len(seen) == STEPS
        seen.clear()
        painter.paint(crops_of(painter, 1, strength=0.5))
        assert len(seen) == STEPS // 2
        seen.clear()
        painter.paint(crops_of(painter, 1, strength=0.01))
        assert len(seen) == 1
    finally:
        built(name).scheduler = old


@pytest.mark.parametrize("name", NAMES)
def test_what_was_saved_is_loaded_again_here_and_by_diffusers(name: str, tmp_path: Path) -> None:
    pipe = refined(name)
    pipe.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(plain) is type(pipe.pipe)
    again = RefinedPipeline.from_pretrained(tmp_path, detector=relenting())
    again.set_progress_bar_config(disable=True)
    assert again.native == pipe.native
    for part in again.pipe.components.values():  # where weights lie in memory affects how products are rounded
        for tensor in (*part.parameters(), *part.buffers()) if isinstance(part, torch.nn.Module) else ():
            tensor.data = tensor.data.clone()
    given = noise(40, 48)
    pictures = [each(PROMPTS[0], start_image=given, seed=2).images[0].tobytes() for each in (pipe, again)]
    assert pictures[0] == pictures[1] != given.tobytes()


# Blending

SCHEDULERS = [
    ("sd", name)
    for name in ("DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep")
] + [("sd", "HeunDiscrete"), ("sd", "PNDM"), ("sd", "KDPM2Discrete"), ("sd3", "FlowMatchEulerDiscrete")]


@pytest.mark.parametrize(("name", "schedule"), SCHEDULERS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_blending_equals_diffusers_own_inpainting(name: str, schedule: str, strength: float) -> None:
    base = copy.copy(built(name))
    config = dict(base.scheduler.config) | {"prediction_type": "epsilon", "skip_prk_steps": True}
    base.scheduler = getattr(diffusers, f"{schedule}Scheduler").from_config(config)
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, 8:24] = True
    call = {**TINY[name].call, "prompt": PROMPTS[0], "num_inference_steps": STEPS, "output_type": "latent"}
    call |= {"height": 32, "width": 32}
    cell = base.vae_scale_factor
    shares = mask[None, ::cell, ::cell] * strength
    with blended(base, [noise(32, 32)], shares, strength=strength, layout=family_of(base).layout):
        ours = base(**call, generator=torch.Generator().manual_seed(0)).images[0]
    pixels = base.image_processor.preprocess(noise(32, 32))
    with torch.no_grad():  # with given latents, the class draws no noise for encoding
        latents = base.vae.encode(pixels).latent_dist.mode()
    latents = (latents - (base.vae.config.shift_factor or 0)) * base.vae.config.scaling_factor
    call |= {"image": latents, "masked_image_latents": latents, "mask_image": Image.fromarray(mask)}
    seed = torch.Generator().manual_seed(0)
    cls = diffusers.StableDiffusionInpaintPipeline if name == "sd" else diffusers.StableDiffusion3InpaintPipeline
    own = cls(**base.components, **({"requires_safety_checker": False} if name == "sd" else {}))
    own.set_progress_bar_config(disable=True)
    own.scheduler = type(base.scheduler).from_config(base.scheduler.config)
    theirs = own(**call, generator=seed, strength=strength).images[0]
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("name", BLENDED)
def test_repainting_everything_from_noise_is_painting(name: str) -> None:
    painter = painter_of(name, height=32, width=32)
    whole = Crop(
        image=noise(32, 32), mask=np.ones((32, 32), dtype=bool), prompt=PROMPTS[0], negative_prompt="", seed=5,
        strength=1.0,
    )  # fmt: skip
    painted = painter.generate([PaintJob(prompt=PROMPTS[0], seed=5)])[0]
    repainted = (painter.paint([whole])[0] * 255).round().astype(np.uint8)
    assert np.abs(repainted.astype(int) - np.asarray(painted)).max() <= 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sd-inpaint"])
def test_repainting_nothing_is_the_autoencoders_round_trip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So colours do not change: everything that a family does to latents between encoding and decoding is undone."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    painter, vae = painter_of(name), built(name).vae
    side = crops_of(painter, 1)[0].image.width
    picture, nothing = noise(side, side), np.zeros((side, side), dtype=bool)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        encoded = vae.encode(pixels[:, :, None] if name == "qwen-image" else pixels)
        latents = encoded.latent if name == "sana" else encoded.latent_dist.mode()
        decoded = vae.decode(latents).sample.reshape(3, side, side).permute(1, 2, 0).numpy() / 2 + 0.5
    for strength in (0.3, 1.0):
        crop = Crop(image=picture, mask=nothing, prompt=PROMPTS[0], negative_prompt="", seed=5, strength=strength)
        assert np.abs(painter.paint([crop])[0] - decoded.clip(0, 1)).max() <= 2e-4
