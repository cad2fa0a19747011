"""Caches of diffusers inside the denoiser work in repainting too, and a run never depends on an earlier call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import (  # noqa: E402
    DiffusionPipeline,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from support.repairs import NOISE, PROMPT, mended, pictures, refined, relenting  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.pipelines import RefinedPipeline  # noqa: E402
from refiner.pipelines.editing.editors import edits  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import denoiser_of  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402

pytestmark = NOISE
STEPS = 8
MOST = (-1, 999)
"""Range of timesteps in which a cache may be used: all but the first of the whole schedule."""


def first_block(_pipe: DiffusionPipeline) -> FirstBlockCacheConfig:
    return FirstBlockCacheConfig(threshold=0.5)


def taylor(_pipe: DiffusionPipeline) -> TaylorSeerCacheConfig:
    return TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, taylor_factors_dtype=torch.float32)


def magnitudes(_pipe: DiffusionPipeline) -> MagCacheConfig:
    return MagCacheConfig(threshold=9.0, retention_ratio=0.0, num_inference_steps=STEPS, mag_ratios=[0.9] * STEPS)


def broadcast(pipe: DiffusionPipeline) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=MOST,
        spatial_attention_block_identifiers=("blocks",), current_timestep_callback=lambda: pipe.current_timestep,
    )  # fmt: skip


def faster(pipe: DiffusionPipeline) -> FasterCacheConfig:
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=MOST, is_guidance_distilled=True,
        spatial_attention_block_identifiers=("blocks",), current_timestep_callback=lambda: pipe.current_timestep,
        attention_weight_callback=lambda _module: 0.3, tensor_format="BCHW",
    )  # fmt: skip


CACHES = {each.__name__: each for each in (first_block, taylor, magnitudes, broadcast, faster)}
GENERATING = ("FluxPipeline", "Flux2KleinPipeline", "QwenImagePipeline")
"""Classes that tell caches the pass and the timestep by themselves, so that plain calls work with any cache."""
SILENT = (
    *("FluxInpaintPipeline", "FluxFillPipeline", "FluxKontextInpaintPipeline", "ChromaPipeline"),
    "ChromaInpaintPipeline",
)
"""Classes that tell them nothing, or only the timestep."""
UNKNOWN = {
    "Flux2Klein": ("first_block",),
    "Chroma": ("first_block", "magnitudes"),
    "ChromaInpaint": ("first_block", "magnitudes"),
}
"""Caches that diffusers itself cannot use with a model: it fails in a plain call, or refuses to enable them."""


def options_of(row: str) -> dict[str, Any]:
    return {**ROWS[row].call, "num_inference_steps": STEPS}


def cached(row: str, cache: str, asked: DiffusionPipeline | None = None) -> DiffusionPipeline:
    """A pipeline with a cache that asks it, or another pipeline, for the timestep."""
    pipe = ROWS[row].build()
    pipe.transformer.enable_cache(CACHES[cache](asked or pipe))
    return pipe


def alone(pipe: DiffusionPipeline, row: str) -> RefinedPipeline:
    return refined(pipe, call=options_of(row), native=32)


def crops(count: int) -> list[Crop]:
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, 8:24] = True
    return [
        Crop(
            image=noise(32, 32, seed), mask=mask, prompt=PROMPT[: 10 + 7 * seed], negative_prompt="", seed=seed,
            strength=(0.5, 0.8, 0.5)[seed],
        )
        for seed in range(count)
    ]  # fmt: skip


class StoppedError(Exception):
    """Ends a call in the middle."""


def stop(*_: Any) -> Any:
    raise StoppedError


def interrupt(pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._interrupt = True
    return tensors


def plain_call_that_fails(pipe: RefinedPipeline) -> None:
    with pytest.raises(StoppedError):
        pipe.pipe(prompt=PROMPT, height=48, width=48, **pipe.call_defaults, callback_on_step_end=stop)


def refinement_that_fails(pipe: RefinedPipeline) -> None:
    passes = iter(range(1000))

    def fail(*_: Any) -> None:
        if next(passes) == 2:
            raise StoppedError

    with denoiser_of(pipe.pipe).register_forward_pre_hook(fail):
        result = pipe(PROMPT, seed=1, start_image=noise()).results[0]
    assert (len(result.attempts), result.stop) == (2, "failed")


def refinement_that_is_interrupted(pipe: RefinedPipeline) -> None:
    pipe(PROMPT, seed=1, start_image=noise(), callback_on_step_end=interrupt)


BEFORE = (plain_call_that_fails, refinement_that_fails, refinement_that_is_interrupted)


def pairs(rows: Iterable[str]) -> list[tuple[str, str]]:
    return [(row, cache) for row in rows for cache in CACHES if cache not in UNKNOWN.get(row.split("Pipe")[0], ())]


@pytest.mark.parametrize(("row", "cache"), pairs(GENERATING))
def test_runs_repeat_bit_for_bit_whatever_happened_before(row: str, cache: str) -> None:
    pipe = alone(cached(row, cache), row)
    expected = pictures(mended(pipe))
    plain = pictures(mended(alone(ROWS[row].build(), row)))
    assert all(one != other for one, other in zip(expected, plain, strict=True))
    for happens in BEFORE:
        happens(pipe)
        assert pictures(mended(pipe)) == expected, happens.__name__


@pytest.mark.parametrize(("row", "cache"), pairs((*GENERATING, *SILENT)))
def test_a_repaint_uses_the_cache_and_a_batch_equals_single_calls(row: str, cache: str) -> None:
    def painter(inpainter: DiffusionPipeline) -> Callable[[list[Crop]], list[Any]]:
        settings = PaintSettings(native=32, inpaint_options=options_of(row))
        if edits(inpainter):  # as inpainter= it would edit, but it inpaints for itself
            return DiffusersPainter(inpainter, settings).paint
        return DiffusersPainter(generator, settings, inpainter=inpainter).paint

    generator = ROWS["FluxPipeline"].build()
    own = cached(row, cache) if edits(ROWS[row].build()) else cached(row, cache, generator)
    paint, plain = painter(own), painter(ROWS[row].build())
    for crop, pixels in zip(crops(3), paint(crops(3)), strict=True):
        assert np.array_equal(paint([crop])[0], pixels)
        assert not np.array_equal(plain([crop])[0], pixels)
    assert own.transformer.is_cache_enabled


@pytest.mark.parametrize("cache", ["broadcast", "faster"])
@pytest.mark.parametrize("name", ["FluxInpaintPipeline", "FluxKontextInpaintPipeline"])
def test_a_cache_that_asks_the_generator_for_the_timestep_works_in_an_inpainter_with_its_weights(
    name: str, cache: str
) -> None:
    pipe, row = cached("FluxPipeline", cache), "FluxPipeline"
    own = getattr(diffusers, name)(**pipe.components)
    own.set_progress_bar_config(disable=True)
    both = refined(pipe, call=options_of(row), native=32, inpainter=own, inpaint_call=options_of(row))
    repainted = both(PROMPT, seed=1, start_image=noise()).results[0]  # before the generator was ever called
    assert repainted.best == 1, repainted.attempts[1].error
    expected = pictures(mended(both))
    refinement_that_fails(both)
    assert pictures(mended(both)) == expected
    both.detector = relenting()
    assert both(PROMPT, seed=1, start_image=noise()).images[0].tobytes() == repainted.image.tobytes()
    assert pipe.current_timestep is None


# Other settings for speed and memory


def attention_backend(pipe: DiffusionPipeline) -> None:
    pipe.transformer.set_attention_backend("_native_math")


def float8_weights(pipe: DiffusionPipeline) -> None:
    denoiser_of(pipe).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def group_offload(pipe: DiffusionPipeline) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)


def cache_and_group_offload(pipe: DiffusionPipeline) -> None:
    pipe.transformer.enable_cache(taylor(pipe))
    group_offload(pipe)


def cache_and_module_compile(pipe: DiffusionPipeline) -> None:
    pipe.transformer.enable_cache(taylor(pipe))
    pipe.transformer.compile(backend="eager")


def cache_and_torch_compile(pipe: DiffusionPipeline) -> None:
    pipe.transformer.enable_cache(taylor(pipe))
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


SETTINGS = (attention_backend, float8_weights, group_offload, cache_and_group_offload)
COMPILED = (cache_and_module_compile, cache_and_torch_compile)


@pytest.mark.parametrize(
    ("row", "setting"),
    [
        *((row, setting) for row in ("FluxPipeline", "QwenImagePipeline") for setting in SETTINGS),
        *(pytest.param("FluxPipeline", setting, marks=pytest.mark.slow) for setting in COMPILED),
        ("StableDiffusionPipeline", float8_weights),
        ("StableDiffusionPipeline", group_offload),
    ],
)
def test_runs_with_speed_settings_repeat_whatever_happened_before(
    row: str, setting: Callable[[DiffusionPipeline], None]
) -> None:
    base = ROWS[row].build()
    setting(base)
    pipe = alone(base, row)
    expected = pictures(mended(pipe))
    for happens in BEFORE:
        happens(pipe)
        assert pictures(mended(pipe)) == expected, happens.__name__


@pytest.mark.parametrize("setting", COMPILED)
def test_a_cache_in_a_compiled_inpainter_is_told_what_one_that_is_not_compiled_is_told(
    setting: Callable[[DiffusionPipeline], None],
) -> None:
    """The class names no passes itself."""
    pictures_ = []
    for change in (setting, lambda pipe: pipe.transformer.enable_cache(taylor(pipe))):
        own = ROWS["FluxInpaintPipeline"].build()
        change(own)
        generator = ROWS["FluxPipeline"].build()
        settings = PaintSettings(native=32, inpaint_options=options_of("FluxInpaintPipeline"))
        pictures_.append(DiffusersPainter(generator, settings, inpainter=own).paint(crops(1))[0])
    assert np.abs(pictures_[0] - pictures_[1]).max() <= 1e-5


def test_callbacks_of_the_user_see_the_timestep_of_the_step() -> None:
    pipe, seen = cached("FluxPipeline", "broadcast"), list[bool]()

    def note(running: Any, _step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(bool(running.current_timestep == time))
        return tensors

    mended(alone(pipe, "FluxPipeline"), callback_on_step_end=note)
    assert len(seen) == STEPS + STEPS // 2
    assert all(seen)
