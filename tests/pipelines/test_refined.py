"""RefinedPipeline over tiny random Stable Diffusion pipelines built here: no hub, no weights on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from diffusers import (  # noqa: E402
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from support.tiny_parts import SIDE  # noqa: E402
from support.tiny_pipelines import ddim, stable_diffusion, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import BadImageError, ConfigError, WeightsError  # noqa: E402
from refiner.pipelines import CropInpainter, RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.caches import LatentCache  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import reads_free_text  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import InpaintJob  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, RefinementResult, Region, Size  # noqa: E402

PROMPT = "a red hand left of a green clock"


BOXES = ((8, 8, 20, 20), (40, 40, 52, 52))


def flaws(image: Image.Image, boxes: Sequence[tuple[int, int, int, int]] = BOXES, severity: float = 1.0) -> Analysis:
    regions = tuple(
        Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=severity) for box in boxes
    )
    return Analysis(size=Size(image.height, image.width), regions=regions, detector="scripted")


def relenting() -> ScriptedDetector:
    """Finds a smaller flaw each time."""
    severities = iter(0.8**n for n in range(1000))
    return ScriptedDetector(lambda image: flaws(image, severity=next(severities)))


def by_pixels(image: Image.Image) -> Analysis:
    """Finds flaws only by the pixels, so that its answers do not depend on the order of calls."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    means = [float(pixels[y0:y1, x0:x1].mean()) for x0, y0, x1, y1 in BOXES]
    found = [
        Region(mask=None, box=b, name="the hand", category=Category.ANATOMY, severity=m)
        for b, m in zip(BOXES, means, strict=True)
    ]
    return Analysis(size=Size(image.height, image.width), regions=tuple(found), detector="mean")


def refined(
    pipe: DiffusionPipeline | None = None, detector: ScriptedDetector | None = None, **options: object
) -> RefinedPipeline:
    config = options.pop("config", RefineConfig(max_rounds=1, strengths=(0.5, 0.75)))
    if "batch_images" in options:
        config = replace(config, batch_images=options.pop("batch_images"))
    return RefinedPipeline.from_pipe(
        pipe or stable_diffusion(),
        detector=detector or ScriptedDetector(by_pixels),
        config=config,
        call={"num_inference_steps": 4},
        **options,
    )


def record(result: RefinementResult) -> list[tuple[object, ...]]:
    return [(result.prompt, result.best, result.stop)] + [
        (a.action, a.prompt, a.seed, a.image and a.image.tobytes(), a.accepted, a.reason, a.calls)
        for a in result.attempts
    ]


@pytest.fixture(scope="module")
def base() -> StableDiffusionPipeline:
    return stable_diffusion()


@pytest.mark.parametrize("build", [stable_diffusion, stable_diffusion_xl])
def test_it_paints_looks_and_mends(build: Callable[[], DiffusionPipeline]) -> None:
    pipe = refined(build(), relenting())
    output = pipe(PROMPT, seed=3)
    (result,) = output.results
    assert [attempt.action for attempt in result.attempts] == ["generate", "inpaint"]
    assert result.best == 1
    assert output.images[0].size == (SIDE, SIDE)
    assert result.attempts[0].calls.denoiser_rows == 8
    assert result.attempts[1].calls.denoiser_rows == 8
    start, end = (np.asarray(attempt.image) for attempt in result.attempts)
    painted = result.attempts[1].painted
    assert painted.any()
    assert np.array_equal(start[~painted], end[~painted])
    reach = np.zeros((SIDE, SIDE), dtype=bool)
    grown = int(pipe.refine_config.dilate * SIDE)
    for x0, y0, x1, y1 in BOXES:
        reach[y0 - grown : y1 + grown, x0 - grown : x1 + grown] = True
    assert not (painted & ~reach).any()


def test_with_nothing_to_fix_it_costs_the_plain_pipeline_and_one_look(base: StableDiffusionPipeline) -> None:
    detector = ScriptedDetector(lambda image: flaws(image, ()))
    result = refined(base, detector)(PROMPT, seed=0).results[0]
    assert (result.stop, len(detector.seen), result.calls.denoiser_rows) == ("clean", 1, 8)
    plain = base(PROMPT, num_inference_steps=4, generator=torch.Generator().manual_seed(result.attempts[0].seed))
    assert np.array_equal(np.asarray(plain.images[0]), np.asarray(result.image))


def test_the_record_depends_on_prompt_seed_and_number_alone(base: StableDiffusionPipeline) -> None:
    pipe = refined(base, config=RefineConfig(max_rounds=2, strengths=(0.5,), batch_images=1))
    together = pipe([PROMPT, "a cat"], seed=5, num_images_per_prompt=2).results
    first, cat = pipe(PROMPT, seed=5).results[0], pipe("a cat", seed=5).results[0]
    assert [result.prompt for result in together] == [PROMPT, PROMPT, "a cat", "a cat"]
    assert record(together[0]) == record(first)
    assert record(together[2]) == record(cat)
    assert record(together[1]) != record(first)
    listed = pipe(["a cat", PROMPT], seed=[9, 5]).results
    assert record(listed[1]) == record(first)


def test_streaming_gives_the_same_attempts_as_the_call(base: StableDiffusionPipeline) -> None:
    pipe = refined(base)
    run = pipe.stream(PROMPT, seed=5)
    attempts, result = list(run), run.result
    assert [id(a) for a in result.attempts] == [id(a) for a in attempts]
    assert record(result) == record(pipe(PROMPT, seed=5).results[0])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' DPM-Solver
@pytest.mark.parametrize("schedule", [DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("build", [stable_diffusion, stable_diffusion_xl])
def test_many_regions_in_one_batch_equal_single_runs(build: Callable[[], DiffusionPipeline], schedule: type) -> None:
    pipe = build()
    pipe.scheduler = schedule.from_config({**ddim().config, "skip_prk_steps": True})
    painter = DiffusersPainter(pipe, PaintSettings(options={"num_inference_steps": 6}))
    inpainter = CropInpainter(
        painter.paint, native=painter.native, multiple=painter.multiple, cell=painter.cell, config=RefineConfig()
    )
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (96, 80, 3), dtype=np.uint8))
    jobs = []
    for number, (y, x) in enumerate(((10, 10), (50, 20), (30, 60), (80, 70))):
        mask = np.zeros((96, 80), dtype=bool)
        mask[y : y + 12, x : x + 9] = True
        negative = "blur" if number == 1 else ""
        strength = 0.5 if number < 2 else 0.9
        jobs.append(
            InpaintJob(
                image=image,
                mask=mask,
                prompt=f"thing {number}",
                negative_prompt=negative,
                seed=number,
                strength=strength,
            )
        )
    together = inpainter.inpaint(jobs)
    before = painter.spent().denoiser_rows
    alone = [inpainter.inpaint([job])[0] for job in jobs]
    assert painter.spent().denoiser_rows == 2 * before
    for job, one, other in zip(jobs, together, alone, strict=True):
        difference = np.abs(np.asarray(one).astype(int) - np.asarray(other))
        assert difference.max() <= 1
        changed = (np.asarray(one) != np.asarray(image)).any(axis=2)
        assert changed.any()
        assert not (changed & ~job.mask).any()


@pytest.mark.parametrize("build", [stable_diffusion, stable_diffusion_xl])
def test_each_crop_is_encoded_once_and_painted_as_diffusers_does(
    build: Callable[[], DiffusionPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, rows = build(), [0]
    pipe.vae.encoder.register_forward_pre_hook(lambda _module, args: rows.__setitem__(0, rows[0] + len(args[0])))
    images = map(Image.fromarray, np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8))
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[8:40, 16:48] = True
    crops = [
        Crop(image=image, mask=mask, prompt=f"thing {n}", negative_prompt="", seed=n, strength=0.75)
        for n, image in enumerate(images)
    ]

    def painted() -> NDArray[np.float32]:
        return np.stack(DiffusersPainter(pipe, PaintSettings(options={"num_inference_steps": 4})).paint(crops))

    first = painted()
    assert rows == [3]
    monkeypatch.setattr(LatentCache, "on", lambda *_: nullcontext())
    assert np.array_equal(first, painted())
    assert rows == [3 + 3]


def test_the_users_pipeline_is_left_as_it_was(base: StableDiffusionPipeline) -> None:
    scheduler_before, config_before = base.scheduler, dict(base.scheduler.config)
    dtypes = {name: module.dtype for name, module in base.components.items() if isinstance(module, torch.nn.Module)}
    hooks = {name: len(module._forward_pre_hooks) for name, module in base.unet.named_modules()}
    settings = dict(base._progress_bar_config)
    refined(base)(PROMPT, seed=0)
    assert base.scheduler is scheduler_before
    assert dict(base.scheduler.config) == config_before
    assert base._progress_bar_config == settings
    assert hooks == {name: len(module._forward_pre_hooks) for name, module in base.unet.named_modules()}
    assert dtypes == {n: m.dtype for n, m in base.components.items() if isinstance(m, torch.nn.Module)}


def test_a_low_precision_pipeline_keeps_its_dtype() -> None:
    pipe = stable_diffusion().to(torch.bfloat16)
    result = refined(pipe, relenting())(PROMPT, seed=0).results[0]
    assert result.best == 1
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' DPM-Solver
def test_settings_made_on_it_reach_the_pipeline_and_its_inpainting() -> None:
    pipe = refined()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert pipe.pipe.scheduler is pipe.scheduler
    assert pipe.device == torch.device("cpu")
    assert pipe.dtype == torch.float32
    assert pipe.unet is pipe.pipe.unet
    seen: list[str] = []

    def note(inner: DiffusionPipeline, _step: int, _time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(f"{len(tensors['latents'])} {type(inner).__name__}/{type(inner.scheduler).__name__}")
        return tensors

    pipe(PROMPT, seed=0, callback_on_step_end=note)
    assert set(seen) == {f"{rows} StableDiffusionPipeline/DPMSolverMultistepScheduler" for rows in (1, 2)}


def test_to_moves_detector_and_judge_too() -> None:
    class Movable(ScriptedDetector):
        device = None

        def to(self, device: torch.device) -> None:
            self.device = device

    pipe = refined(detector=Movable([]))
    assert pipe.to("meta") is pipe
    assert pipe.detector.device.type == "meta"


def test_a_subclass_belongs_to_its_ancestors_family() -> None:
    class Mine(StableDiffusionPipeline):
        pass

    assert refined(stable_diffusion(Mine), relenting())(PROMPT, seed=0).results[0].best == 1


def test_another_family_is_refused_by_name(base: StableDiffusionPipeline) -> None:
    class Other(DiffusionPipeline):
        pass

    with pytest.raises(ConfigError, match="Other"):
        RefinedPipeline(Other(), detector=ScriptedDetector([]))


def test_the_seed_is_drawn_from_a_generator_once(base: StableDiffusionPipeline) -> None:
    pipe = refined(base, batch_images=1)
    images = pipe(PROMPT, generator=torch.Generator().manual_seed(1), num_images_per_prompt=2).images
    again = pipe(PROMPT, generator=torch.Generator().manual_seed(1)).images
    assert np.array_equal(np.asarray(images[0]), np.asarray(again[0]))
    assert not np.array_equal(np.asarray(images[0]), np.asarray(images[1]))
    generators = [torch.Generator().manual_seed(n) for n in (1, 2)]
    assert np.array_equal(np.asarray(pipe([PROMPT, "a cat"], generator=generators).images[0]), np.asarray(again[0]))
    with pytest.raises(ConfigError, match="both"):
        pipe(PROMPT, seed=1, generator=torch.Generator())
    with pytest.raises(ConfigError, match="one for each"):
        pipe(PROMPT, seed=[1, 2])


def test_output_types_and_tuples(base: StableDiffusionPipeline) -> None:
    pipe = refined(base)
    pictures = np.stack([np.asarray(image) for image in pipe([PROMPT, "a cat"], seed=0).images])
    arrays, results = pipe([PROMPT, "a cat"], seed=0, output_type="np", return_dict=False)
    tensor = pipe([PROMPT, "a cat"], seed=0, output_type="pt").images
    assert len(results) == 2
    assert np.array_equal((arrays * 255).round(), pictures)
    assert tensor.shape == (2, 3, SIDE, SIDE)
    assert np.array_equal((tensor.permute(0, 2, 3, 1).numpy() * 255).round(), pictures)
    with pytest.raises(ConfigError, match="output_type"):
        pipe(PROMPT, output_type="jpg")


def test_a_given_picture_of_any_mode_is_refined(base: StableDiffusionPipeline) -> None:
    given = Image.new("RGBA", (80, 48), (200, 30, 30, 255))
    detector = ScriptedDetector([flaws(Image.new("RGB", (80, 48)), ((8, 8, 20, 20),)), flaws(given, ())])
    result = refined(base, detector)(PROMPT, image=given, seed=0).results[0]
    assert [attempt.action for attempt in result.attempts] == ["given", "inpaint"]
    assert result.attempts[0].calls.denoiser_rows == 0
    assert result.image.size == (80, 48)


def test_callback_can_end_it(base: StableDiffusionPipeline) -> None:
    result = refined(base)(PROMPT, seed=0, callback_on_attempt=lambda attempt: attempt.index == 0).results[0]
    assert (result.stop, len(result.attempts)) == ("interrupted", 1)


def test_not_a_number_is_recorded_and_without_any_picture_it_raises() -> None:
    pipe = refined(detector=ScriptedDetector(lambda image: flaws(image)))
    own = pipe.pipe.scheduler

    def spoil(inner: DiffusionPipeline, _step: int, _time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        bad = inner.scheduler is not own or everywhere
        return {"latents": tensors["latents"] * float("nan")} if bad else tensors

    everywhere = False
    result = pipe(PROMPT, seed=0, callback_on_step_end=spoil).results[0]
    assert result.best == 0
    assert "NaN" in result.attempts[1].error
    everywhere = True
    with pytest.raises(BadImageError, match="NaN"):
        pipe(PROMPT, seed=0, callback_on_step_end=spoil)


def test_saved_folders_are_plain_diffusers_folders_too(tmp_path: Path, base: StableDiffusionPipeline) -> None:
    pipe = refined(base, config=RefineConfig(max_rounds=1, strengths=(0.5,)))
    pipe.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(plain) is StableDiffusionPipeline
    again = RefinedPipeline.from_pretrained(tmp_path, detector=ScriptedDetector(by_pixels))
    again.set_progress_bar_config(disable=True)
    assert (again.refine_config, again.call_defaults) == (pipe.refine_config, pipe.call_defaults)
    assert record(again(PROMPT, seed=2).results[0]) == record(pipe(PROMPT, seed=2).results[0])
    with pytest.raises(ConfigError, match="detector"):
        RefinedPipeline.from_pretrained(tmp_path)
    (tmp_path / "refiner.json").write_text("{")
    with pytest.raises(WeightsError, match=r"refiner\.json"):
        RefinedPipeline.from_pretrained(tmp_path, detector=ScriptedDetector([]))


def test_an_empty_prompt_is_a_prompt_by_which_nothing_is_judged(base: StableDiffusionPipeline) -> None:
    result = refined(base, judge=Silent())("", seed=0).results[0]
    assert len(result.attempts) > 1
    assert not any(attempt.scores for attempt in result.attempts)


class Silent:
    name = "silent"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        raise AssertionError("there is nothing to judge by")


def test_a_text_encoder_of_few_words_gets_no_other_words(base: StableDiffusionPipeline) -> None:
    assert not reads_free_text(base)
    result = refined(base, relenting())(PROMPT, seed=0, strategy="regenerate").results[0]
    assert result.attempts[1].prompt == f"{PROMPT} a red hand"
    assert result.attempts[1].negative_prompt == ""
