"""Errors of models and users, through the public interface, on tiny random pipelines: an error is recorded with its
reason, and the best image is kept."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel  # noqa: E402
from diffusers.callbacks import PipelineCallback  # noqa: E402
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput  # noqa: E402
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: E402
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextModelWithProjection  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import BadImageError, RefinerWarning  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size  # noqa: E402

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"
SIDE = 64
BOXES = ((8, 8, 20, 20), (40, 40, 52, 52), (40, 8, 52, 20), (8, 40, 20, 52))
CONFIG = RefineConfig(max_rounds=1, strengths=(0.5,), dilate=0.02, crop_min_side=0.25)


def flaws(image: Image.Image, boxes: Sequence[tuple[int, int, int, int]] = BOXES, severity: float = 1.0) -> Analysis:
    regions = tuple(
        Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=severity) for box in boxes
    )
    return Analysis(size=Size(image.height, image.width), regions=regions, detector="scripted")


def relenting(boxes: Sequence[tuple[int, int, int, int]] = BOXES) -> ScriptedDetector:
    """Finds a smaller flaw each time, so that every inpainted image is accepted."""
    severities = iter(0.5**n for n in range(1000))
    return ScriptedDetector(lambda image: flaws(image, boxes, next(severities)))


@pytest.fixture(scope="module")
def loaded(model: str) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(model)


def copied(loaded: StableDiffusionPipeline, cls: type = StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A pipeline with the same weights and separate hooks and settings."""
    parts = {**loaded.components, "unet": copy.deepcopy(loaded.unet)}
    parts["scheduler"] = type(loaded.scheduler).from_config(loaded.scheduler.config)
    own = cls(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    return own


@pytest.fixture
def pipe(loaded: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return copied(loaded)


def refined(
    pipe: StableDiffusionPipeline, detector: ScriptedDetector | None = None, **settings: Any
) -> RefinedPipeline:
    return RefinedPipeline.from_pipe(
        pipe, detector=detector or relenting(), config=replace(CONFIG, **settings), call={"num_inference_steps": 2}
    )


def run(pipe: StableDiffusionPipeline, detector: ScriptedDetector | None = None, **options: Any) -> RefinementResult:
    settings = {name: options.pop(name) for name in list(options) if name in RefineConfig.__dataclass_fields__}
    return refined(pipe, detector, **settings)(PROMPT, seed=0, **options).results[0]


def check_kept(result: RefinementResult, word: str) -> Attempt:
    """The first image was kept, and the second attempt records the error."""
    assert result.best == 0
    assert result.image.size == (SIDE, SIDE)
    failed = result.attempts[1]
    assert not failed.accepted
    assert word in str(failed.error)
    assert result.attempts[0].error is None
    return failed


def only_inpainting(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A diffusers callback that changes only tensors of regions, of which there are several in a batch."""
    return lambda _pipe, _step, _time, tensors: change(tensors) if len(tensors["latents"]) > 1 else tensors


def rows_of(latents: torch.Tensor, value: float, rows: slice) -> dict[str, torch.Tensor]:
    changed = latents.clone()
    changed[rows] = value
    return {"latents": changed}


# What pipelines return


class Latents(StableDiffusionPipeline):
    """Returns latents for every output_type."""

    def __call__(self, **options: Any) -> StableDiffusionPipelineOutput:
        images = super().__call__(**options | {"output_type": "latent"}).images
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)


def test_a_generator_that_returns_latents(loaded: StableDiffusionPipeline) -> None:
    own = copied(loaded, Latents)
    with pytest.raises(BadImageError, match=r"every attempt failed; .* instead of an array \(H, W, 3\)"):
        refined(own)(PROMPT, seed=0)
    given = Image.fromarray(np.random.default_rng(0).integers(1, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    result = run(own, relenting(), image=given, strategy="regenerate")
    check_kept(result, "instead of an array (H, W, 3)")


def test_an_inpainter_that_returns_another_size(pipe: StableDiffusionPipeline) -> None:
    def enlarge(tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.nn.functional.pad(tensors["latents"], (0, 1))} if last(tensors) else tensors

    steps: list[int] = []

    def last(_tensors: dict[str, Any]) -> bool:
        steps.append(1)
        return True

    result = run(pipe, callback_on_step_end=only_inpainting(enlarge), strengths=(0.1,))
    assert steps
    check_kept(result, "The inpainting model returned shape")


def test_an_inpainter_that_returns_nothing_but_nan(pipe: StableDiffusionPipeline) -> None:
    spoil = only_inpainting(lambda tensors: rows_of(tensors["latents"], float("nan"), slice(None)))
    check_kept(run(pipe, callback_on_step_end=spoil), "NaN")


def test_one_bad_crop_does_not_lose_the_others(pipe: StableDiffusionPipeline) -> None:
    spoil = only_inpainting(lambda tensors: rows_of(tensors["latents"], float("nan"), slice(0, 1)))
    result = run(pipe, callback_on_step_end=spoil)
    attempt = result.attempts[1]
    assert result.best == 1
    assert attempt.error is None
    assert "1 of 4 crops are unchanged" in attempt.note
    assert "NaN" in attempt.note
    painted = [attempt.painted[y0:y1, x0:x1].any() for x0, y0, x1, y1 in BOXES]
    assert sorted(painted) == [False, True, True, True]


# Safety checker and watermark


def checker() -> StableDiffusionSafetyChecker:
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**shared, "image_size": 16, "patch_size": 8}
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=shared, projection_dim=8)).eval()


def checked(pipe: StableDiffusionPipeline, blocks: Callable[[int], bool]) -> StableDiffusionPipeline:
    """The pipeline with a safety checker that blocks images by their number."""
    own = checker()
    seen = iter(range(1000))
    look = type(own).forward.__get__(own)

    def forward(clip_input: torch.Tensor, images: np.ndarray) -> tuple[np.ndarray, list[bool]]:
        images, _ = look(clip_input=clip_input, images=images)
        found = [blocks(next(seen)) for _ in images]
        for image, bad in zip(images, found, strict=True):
            image[:] = 0 if bad else image
        return images, found

    own.forward = forward
    pipe.register_modules(
        safety_checker=own,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )
    return pipe


def test_the_safety_checker_sees_every_picture_and_crop(pipe: StableDiffusionPipeline) -> None:
    seen: list[int] = []
    result = run(checked(pipe, lambda number: bool(seen.append(number))))
    assert result.best == 1
    assert len(seen) == 1 + len(BOXES)


def test_blocked_crops_leave_the_picture_as_it_was(pipe: StableDiffusionPipeline) -> None:
    check_kept(run(checked(pipe, lambda number: number > 0)), "safety checker")


def test_a_blocked_picture_is_no_picture_and_another_seed_may_pass(pipe: StableDiffusionPipeline) -> None:
    result = run(checked(pipe, lambda number: number == 0), max_rounds=2)
    assert "safety checker" in result.attempts[0].error
    assert result.attempts[0].image is None
    assert result.best > 0
    with pytest.raises(BadImageError, match="safety checker"):
        run(checked(pipe, lambda _number: True))


def stable_diffusion_xl(loaded: StableDiffusionPipeline) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    config = loaded.text_encoder.config
    config.projection_dim = config.hidden_size
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=32, cross_attention_dim=64, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    own = StableDiffusionXLPipeline(
        vae=loaded.vae, text_encoder=loaded.text_encoder, tokenizer=loaded.tokenizer, tokenizer_2=loaded.tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config).eval(), unet=unet, scheduler=loaded.scheduler,
        add_watermarker=False,
    )  # fmt: skip
    own.set_progress_bar_config(disable=True)
    return own


class Watermark:
    """A watermark that darkens every eighth column of a whole image."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def apply_watermark(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images.shape))
        marked = images.clone()
        marked[..., ::8] = -1
        return marked


def test_the_watermark_is_put_once_on_the_whole_picture_and_changes_no_pixel_that_stays(
    loaded: StableDiffusionPipeline,
) -> None:
    """A watermark is put neither on crops, where pasting would blur it, nor on an image that has it already."""
    own, mark = stable_diffusion_xl(loaded), Watermark()
    own.watermark = mark
    painted = run(own).attempts
    assert painted[1].accepted
    assert mark.shapes == [(1, 3, SIDE, SIDE)] * (1 + len(BOXES))
    assert own.watermark is mark
    for attempt in painted:
        assert not np.asarray(attempt.image)[:, ::8].any()
    given = Image.fromarray(np.random.default_rng(0).integers(1, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    repainted = run(own, image=given, strategy="inpaint").attempts[1]
    marked = ~np.asarray(repainted.image)[:, ::8].any(axis=2)
    assert np.array_equal(marked, repainted.painted[:, ::8])
    assert marked.any()
    assert not marked.all()
    assert not (np.asarray(repainted.image) != np.asarray(given))[~repainted.painted].any()


# Memory


def short_of_memory(pipe: StableDiffusionPipeline, most: int, error: Callable[[], Exception]) -> list[int]:
    """Let the denoiser fail with more than so many rows; returns the batch sizes that were tried."""
    tried: list[int] = []

    def check(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tried.append(len(args[0]))
        if len(args[0]) > most:
            raise error()

    pipe.unet.register_forward_pre_hook(check, with_kwargs=True)
    return tried


ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 10 GiB."),
    "cpu": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error"),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)."),
    "python": MemoryError,
}


@pytest.mark.parametrize("kind", ERRORS)
def test_out_of_memory_halves_the_batch_for_the_rest_of_the_run(
    pipe: StableDiffusionPipeline, loaded: StableDiffusionPipeline, kind: str
) -> None:
    tried = short_of_memory(pipe, 4, ERRORS[kind])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = run(pipe, max_rounds=2)
    remark = "Memory ran out with a batch of 4 crops of 64x64 pixels: now 2."
    assert [str(warning.message) for warning in said if warning.category is RuntimeWarning] == [remark]
    assert [attempt.note for attempt in result.attempts] == ["", remark, ""]
    assert result.best == 2
    assert tried == [2, 2, 8, 4, 4, 4, 4], "guidance doubles the rows"
    if kind == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plenty = run(copied(loaded), max_rounds=2, batch_size=2)
        assert np.array_equal(np.asarray(plenty.image), np.asarray(result.image))


def test_no_memory_for_a_single_crop_is_recorded(pipe: StableDiffusionPipeline) -> None:
    painting = [True]

    def after_the_first(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not painting:
            raise ERRORS["cuda"]()

    pipe.unet.register_forward_pre_hook(after_the_first, with_kwargs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(pipe, callback_on_attempt=lambda attempt: painting.clear())
    failed = check_kept(result, "There is not enough memory for one crop of 64x64 pixels (CUDA out of memory)")
    assert "now 1" in failed.note


def test_no_memory_for_a_new_picture_is_recorded(pipe: StableDiffusionPipeline) -> None:
    painting = [True]
    pipe.unet.register_forward_pre_hook(lambda *_: None if painting else (_ for _ in ()).throw(ERRORS["cuda"]()))
    result = run(pipe, strategy="regenerate", callback_on_attempt=lambda attempt: painting.clear())
    check_kept(result, "There is not enough memory to generate an image (CUDA out of memory)")


@pytest.mark.parametrize("on_error", ["record", "raise"])
def test_other_errors_are_raised_where_there_is_no_image(pipe: StableDiffusionPipeline, on_error: str) -> None:
    short_of_memory(pipe, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run(pipe, on_error=on_error)


# Interrupts


def steps(pipe: Any, at: int, act: Callable[[Any], None]) -> Callable[..., dict[str, Any]]:
    """A diffusers callback that acts at its n-th step."""
    count = iter(range(1000))

    def on_step(inner: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if next(count) == at:
            act(inner)
        return tensors

    return on_step


def set_flag(inner: Any) -> None:
    inner._interrupt = True


@pytest.mark.parametrize("how", ["method", "thread", "flag", "flag of the generator"])
def test_an_interrupt_in_the_middle_of_repainting_keeps_the_best(pipe: StableDiffusionPipeline, how: str) -> None:
    own = refined(pipe, max_rounds=5, strengths=(1.0,))

    def from_thread(_inner: Any) -> None:
        thread = threading.Thread(target=own.interrupt)
        thread.start()
        thread.join()

    acts = {
        "method": lambda _inner: own.interrupt(),
        "thread": from_thread,
        "flag": set_flag,
        "flag of the generator": lambda _inner: set_flag(own),
    }
    result = own(PROMPT, seed=0, callback_on_step_end=steps(own, 2, acts[how])).results[0]
    assert result.stop == "interrupted"
    failed = check_kept(result, "Interrupted; the unfinished image was dropped.")
    assert len(result.attempts) == 2
    assert failed.calls.denoiser_rows == 2 * len(BOXES)
    assert len(own.detector.seen) == 1
    assert own(PROMPT, seed=0).results[0].best > 0


def test_an_interrupt_leaves_out_what_was_not_begun(pipe: StableDiffusionPipeline) -> None:
    own = refined(pipe, ScriptedDetector(lambda image: flaws(image, ())), batch_images=1)
    with pytest.warns(RefinerWarning, match=r"3 of 4 images could not be generated .*image 1: Interrupted"):
        output = own([PROMPT] * 4, seed=0, callback_on_step_end=steps(own, 3, lambda _inner: own.interrupt()))
    assert len(output.images) == 1
    assert len(output.results) == 4
    plain = own(PROMPT, seed=0)
    assert np.array_equal(np.asarray(plain.images[0]), np.asarray(output.images[0]))
    with pytest.raises(BadImageError, match="Interrupted; the unfinished image was dropped"):
        own(PROMPT, seed=0, callback_on_step_end=steps(own, 0, lambda _inner: own.interrupt()))


def test_listening_for_interrupts_changes_no_pixel_and_keeps_diffusers_own_callbacks(
    pipe: StableDiffusionPipeline,
) -> None:
    class Halved(PipelineCallback):
        tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012
        seen: list[set[str]] = []  # noqa: RUF012

        def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
            self.seen.append(set(callback_kwargs))
            return {"latents": callback_kwargs["latents"] / 2}

    own = refined(pipe, ScriptedDetector(lambda image: flaws(image, ())))
    for options in ({}, {"callback_on_step_end": Halved()}):
        result = own(PROMPT, seed=0, **options).results[0]
        seeded = torch.Generator().manual_seed(result.attempts[0].seed)
        plain = pipe(PROMPT, num_inference_steps=2, generator=seeded, output_type="pil", **options)
        assert np.array_equal(np.asarray(plain.images[0]), np.asarray(result.image))
    assert all(seen == {"latents", "prompt_embeds"} for seen in Halved.seen)


# Budgets


@pytest.mark.parametrize("rows", [1, 4, 5, 12, 13, 21])
def test_no_painting_begins_once_the_rows_are_spent(pipe: StableDiffusionPipeline, rows: int) -> None:
    result = run(pipe, max_rounds=5, max_denoiser_rows=rows, strengths=(1.0,))
    spent = [attempt.calls.denoiser_rows for attempt in result.attempts]
    assert sum(spent[:-1]) < rows <= sum(spent)
    assert result.stop == "budget"


def test_rounds_and_seconds_are_counted_too(pipe: StableDiffusionPipeline) -> None:
    result = run(pipe, max_rounds=2)
    assert (result.stop, len(result.attempts)) == ("rounds", 3)
    assert (run(pipe, max_rounds=2, max_seconds=1e-9).stop) == "budget"
    assert len(run(pipe, max_rounds=0).attempts) == 1


# What detectors return


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (64, 65)])
def test_masks_of_another_size_than_the_picture(pipe: StableDiffusionPipeline, size: tuple[int, int]) -> None:
    mask = np.zeros(size, dtype=np.bool_)
    mask[4:9, 4:9] = True
    region = Region(mask=mask, box=(4, 4, 9, 9), name="x", category=Category.SHAPE)
    wrong = Analysis(size=Size(*size), regions=(region,), detector="wrong")
    with pytest.warns(RefinerWarning, match="No image could be analysed"):
        result = run(pipe, ScriptedDetector(lambda _image: wrong))
    assert result.stop in ("unreadable", "rounds")
    assert result.image.size == (SIDE, SIDE)
    assert all("for an image of Size(height=64, width=64)" in attempt.error for attempt in result.attempts)
    later = ScriptedDetector(lambda image: wrong if len(later.seen) > 1 else flaws(image))
    check_kept(run(pipe, later), "for an image of Size(height=64, width=64)")


def test_two_hundred_tiny_regions(pipe: StableDiffusionPipeline) -> None:
    dots = [(x, y, x + 1, y + 1) for x in range(2, 62, 4) for y in range(2, 62, 4)][:200]
    result = run(pipe, relenting(dots), strategy="inpaint", dilate=0.01, batch_size=3)
    assert result.best == 1
    assert result.attempts[1].calls.denoiser_rows == 2 * CONFIG.max_regions
    assert 0 < result.attempts[1].painted.sum() <= 9 * CONFIG.max_regions


def test_a_region_that_covers_everything(pipe: StableDiffusionPipeline) -> None:
    whole = relenting([(0, 0, SIDE, SIDE)])
    result = run(pipe, whole, strategy="inpaint")
    assert result.best == 1
    assert result.attempts[1].painted.mean() > 0.9
    assert run(pipe, relenting([(0, 0, SIDE, SIDE)])).attempts[1].action == "regenerate"


def test_a_region_without_a_single_pixel(pipe: StableDiffusionPipeline) -> None:
    empty = Region(mask=np.zeros((SIDE, SIDE), dtype=np.bool_), box=(8, 8, 20, 20), name="x", category=Category.ANATOMY)
    severities = iter(0.5**n for n in range(99))
    detector = ScriptedDetector(
        lambda image: Analysis(
            size=Size(SIDE, SIDE), regions=(replace(empty, severity=next(severities)),), detector="empty"
        )
    )
    result = run(pipe, detector, strategy="inpaint")
    assert result.attempts[1].action == "inpaint"
    assert result.image.size == (SIDE, SIDE)


# Generators


def test_seeds_are_drawn_on_whatever_device_a_generator_is(pipe: StableDiffusionPipeline) -> None:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    own = refined(pipe, ScriptedDetector(lambda image: flaws(image, ())))
    for device in devices:
        first, again = (own(PROMPT, generator=torch.Generator(device).manual_seed(3)).images[0] for _ in range(2))
        assert np.array_equal(np.asarray(first), np.asarray(again))
