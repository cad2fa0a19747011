"""The call of a refined pipeline: its start images are those of the wrapped pipeline, and no argument is ignored."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from diffusers import AutoPipelineForImage2Image, DiffusionPipeline  # noqa: E402
from support.repairs import NOISE, PROMPT, STEPS, pictures, refined, relenting  # noqa: E402
from support.tiny_pipelines import TINY, flux_klein, stable_diffusion, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline, RefinedPipelineOutput  # noqa: E402
from refiner.types import Analysis, Size  # noqa: E402

pytestmark = NOISE
GENERATING = [name for name in TINY if name != "sd-inpaint"]
"""Families that generate from a prompt alone; a pipeline that can only inpaint has no plain call to compare with."""


@functools.cache
def built(name: str) -> DiffusionPipeline:
    return TINY[name].build()


def clean() -> ScriptedDetector:
    return ScriptedDetector(lambda image: Analysis(size=Size(image.height, image.width), detector="clean"))


def wrapped(pipe: DiffusionPipeline, **call: Any) -> RefinedPipeline:
    return RefinedPipeline(pipe, detector=clean(), judge=None, call={"num_inference_steps": 2, **call})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sized(name: str) -> dict[str, Any]:
    return {"height": 32, "width": 32, **TINY[name].call}


# Law 1: the first images are one call of the wrapped pipeline

CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "a generator": lambda: {"prompt": PROMPT, "generator": seeded(42)},
    "several prompts, one generator": lambda: {"prompt": [PROMPT, "a cat"], "generator": seeded(42)},
    "a list of generators": lambda: {"prompt": [PROMPT, PROMPT], "generator": [seeded(1), seeded(2)]},
    "several images": lambda: {"prompt": PROMPT, "num_images_per_prompt": 2, "generator": seeded(3)},
    # Of one length, because SanaPipeline gives the attention masks of several images to the wrong prompts.
    "several of both": lambda: {"prompt": ["a hand", "a sand"], "num_images_per_prompt": 2, "generator": seeded(3)},
    "torch's own numbers": lambda: {"prompt": PROMPT, "num_images_per_prompt": 2},
    "an empty prompt": lambda: {"prompt": "", "generator": seeded(5)},
}


@pytest.mark.parametrize("output_type", ["np", "pt"])
@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("name", GENERATING)
def test_the_start_images_are_the_wrapped_pipelines_own_bit_for_bit(name: str, kind: str, output_type: str) -> None:
    pipe, options = built(name), {"num_inference_steps": 2, "output_type": output_type, **sized(name)}
    torch.manual_seed(7)
    plain = pipe(**CALLS[kind](), **options).images
    after = torch.get_rng_state()
    torch.manual_seed(7)
    output = wrapped(pipe)(**CALLS[kind](), **options)
    assert torch.equal(torch.get_rng_state(), after)
    assert type(output.images) is type(plain)
    assert output.images.dtype == plain.dtype
    assert np.array_equal(np.asarray(output.images), np.asarray(plain))
    for result, pixels in zip(output.results, np.asarray(plain), strict=True):
        whole = np.moveaxis(pixels, 0, 2) if output_type == "pt" else pixels
        assert np.array_equal(np.asarray(result.image), (whole * 255).round().astype(np.uint8))


@pytest.mark.parametrize("name", GENERATING)
def test_a_seed_is_a_generator_for_each_image_of_a_prompt(name: str) -> None:
    options = {"num_inference_steps": 2, **sized(name)}
    plain = built(name)(
        prompt=["a hand", "a cat"], num_images_per_prompt=2, generator=[seeded(n) for n in (9, 10, 9, 10)], **options
    )
    output = wrapped(built(name))(prompt=["a hand", "a cat"], num_images_per_prompt=2, seed=9, **options)
    assert [image.tobytes() for image in output.images] == [image.tobytes() for image in plain.images]
    assert [result.attempts[0].seed for result in output.results] == [9, 10, 9, 10]


@pytest.mark.parametrize("kind", [kind for kind in CALLS if kind != "an empty prompt"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sana"])
def test_a_split_call_gives_the_same_images_within_rounding(name: str, kind: str) -> None:
    options = {"num_inference_steps": 2, **sized(name)}
    pictures = []
    for batch_images in (None, 1, 3):
        torch.manual_seed(7)
        output = wrapped(built(name))(**CALLS[kind](), batch_images=batch_images, **options)
        pictures.append(np.stack([np.asarray(image).astype(int) for image in output.images]))
    assert np.abs(pictures[1] - pictures[0]).max() <= 1
    assert np.abs(pictures[2] - pictures[0]).max() <= 1


@pytest.mark.parametrize("name", ["sd", "flux", "qwen-image", "cogview4"])
def test_latents_of_a_batch_are_split_by_image(name: str) -> None:
    pipe, options = built(name), {"num_inference_steps": 2, **sized(name)}
    latents = pipe(prompt=["a", "b"], generator=seeded(0), **options | {"output_type": "latent"}).images
    given = torch.randn(latents.shape, generator=seeded(1))
    plain = pipe(prompt=["a hand", "a hand"], latents=given, **options).images
    for batch_images in (None, 1):
        output = wrapped(pipe)(prompt=["a hand", "a hand"], latents=given, batch_images=batch_images, **options)
        gaps = [
            np.abs(np.asarray(one).astype(int) - np.asarray(other)).max()
            for one, other in zip(output.images, plain, strict=True)
        ]
        assert max(gaps) <= (1 if batch_images else 0)
    assert output.images[0].tobytes() != output.images[1].tobytes()


@pytest.mark.parametrize("name", GENERATING)
def test_latents_are_given_back_unrefined(name: str) -> None:
    options = {"num_inference_steps": 2, "output_type": "latent", **sized(name)}
    plain = built(name)(prompt=[PROMPT, "a cat"], generator=seeded(0), **options).images
    output = wrapped(built(name))(prompt=[PROMPT, "a cat"], generator=seeded(0), **options)
    assert torch.equal(output.images, plain)
    assert [(result.stop, result.attempts[0].image) for result in output.results] == [("unrefined", None)] * 2


def test_later_seeds_come_from_the_generators_state_before_the_call() -> None:
    pipe = refined(stable_diffusion())
    used = seeded(4)
    torch.randn(3, generator=used)
    first, again = (
        pictures(refined(pipe.pipe)(PROMPT, generator=one).results[0])
        for one in (used, torch.Generator().set_state(seeded_after(4)))
    )
    assert first == again
    fresh = pictures(refined(pipe.pipe)(PROMPT, generator=seeded(4)).results[0])
    assert fresh[0] != first[0]


def seeded_after(seed: int) -> torch.Tensor:
    generator = seeded(seed)
    torch.randn(3, generator=generator)
    return generator.get_state()


# Positional arguments, outputs, signature


def test_positional_arguments_are_those_of_the_wrapped_call() -> None:
    pipe = wrapped(stable_diffusion())
    assert pipe(PROMPT, 32, 48, 3, seed=0).images[0].size == (48, 32)
    with pytest.raises(TypeError, match="several values for the argument 'height'"):
        pipe(PROMPT, 32, height=32)
    assert len(wrapped(flux_klein(), **TINY["flux-klein"].call)(PROMPT, seed=0, height=32, width=32).images) == 1


def test_the_output_is_one_of_diffusers() -> None:
    pipe = wrapped(stable_diffusion())
    output = pipe(PROMPT, seed=0)
    assert isinstance(output, RefinedPipelineOutput)
    assert output[0] is output.images is output["images"]
    assert output[1] is output.results
    images, results = pipe(PROMPT, seed=0, return_dict=False)
    assert images[0].tobytes() == output.images[0].tobytes()
    assert len(results) == 1


@pytest.mark.parametrize("name", TINY)
def test_the_signature_names_every_argument_that_is_taken(name: str) -> None:
    pipe = wrapped(built(name))
    names = inspect.signature(pipe).parameters.keys()
    assert inspect.signature(pipe.__call__) == inspect.signature(pipe)
    assert inspect.signature(type(pipe.pipe).__call__).parameters.keys() - {"self", "kwargs"} <= names
    assert {"seed", "start_image", "mask_image", *RefineConfig.__dataclass_fields__} <= names
    assert pipe.__call__.__doc__ == RefinedPipeline.__call__.__doc__


def test_pipelines_of_diffusers_are_made_from_it() -> None:
    pipe = wrapped(stable_diffusion())
    other = AutoPipelineForImage2Image.from_pipe(pipe.pipe)
    assert other.unet is pipe.unet


# Law 3: an argument is honoured or refused by name


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("slip", "meant"), [("num_inference_step", "num_inference_steps"), ("max_round", "max_rounds")]
)
def test_a_name_that_nobody_knows_is_refused_with_the_nearest(name: str, slip: str, meant: str) -> None:
    pipe = wrapped(built(name))
    for call in (pipe, pipe.stream):
        with pytest.raises(ConfigError, match=f"{slip}.*did you mean {meant}"):
            call(prompt=PROMPT, **{slip: 1})
    with pytest.raises(ConfigError, match=f"{slip}.*in call="):
        wrapped(built(name), **{slip: 1})
    assert pipe.detector.seen == []


def test_arguments_of_inpainting_calls_with_another_name_here_are_refused_by_it() -> None:
    with pytest.raises(ConfigError, match=r"padding_mask_crop.*crop_padding"):
        wrapped(stable_diffusion())(PROMPT, padding_mask_crop=32)


@pytest.mark.parametrize("name", ["dilate", "feather", "soft_edge", "crop_padding"])
def test_lengths_in_pixels_are_refused_with_the_share_they_meant(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is a share .* 32 / 1024 = 0\.0312"):
        wrapped(stable_diffusion())(PROMPT, **{name: 32})


OTHERS = {
    "seed": 5, "negative_prompt": "blur", "strategy": "regenerate", "on_error": "raise", "batch_images": 1,
    "region_prompt": "whole", "prompts": {"hand": "x"}, "exclude": ("hand",), "order": "largest", "fill_holes": True,
    "together": True, "strengths": (0.3,), "max_denoiser_rows": 3, "max_seconds": 9.0, "keep": "last",
    "inpaint_call": {"num_inference_steps": 3}, "tools": ("regenerate",), "policy": "measured",
    "tool_table": {"text": {"edit": [1, 2]}},
}  # fmt: skip
NEEDED = {
    "tools": {"strategy": "auto"},
    "policy": {"strategy": "auto", "tools": ("regenerate",), "tool_table": {"text": {"edit": [1, 2]}}},
}
"""Other settings without which a setting is refused."""


@pytest.mark.parametrize("name", RefineConfig.__dataclass_fields__)
def test_every_setting_of_the_loop_may_be_given_to_the_call(name: str) -> None:
    usual = getattr(RefineConfig(), name)
    value = OTHERS[name] if name in OTHERS else type(usual)(usual / 2 if isinstance(usual, float) else usual + 1)
    pipe = refined(stable_diffusion())
    given = {"seed": 0, "max_rounds": 0, **NEEDED.get(name, {}), name: value}
    recorded = pipe(PROMPT, **given).results[0].settings["config"]
    assert recorded[name] == (list(value) if isinstance(value, tuple) else value)
    assert getattr(pipe.refine_config, name) == getattr(refined(pipe.pipe).refine_config, name)


def test_a_negative_prompt_that_a_call_does_not_take_is_refused() -> None:
    klein = wrapped(flux_klein(), **TINY["flux-klein"].call)
    with pytest.raises(ConfigError, match="Flux2KleinPipeline takes no negative_prompt"):
        klein(PROMPT, negative_prompt="blur")


# Images and masks of the user


def noise(height: int = 64, width: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


def mask(box: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    made = Image.new("L", size)
    made.paste(255, box)
    return made


@pytest.mark.parametrize("alias", ["start_image", "image"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd-inpaint", "flux"])
def test_masks_of_the_user_are_the_regions_whatever_the_detector_finds(name: str, alias: str) -> None:
    boxes = ((40, 8, 56, 24), (8, 40, 24, 56))
    pipe = RefinedPipeline(
        built(name), detector=clean(), native=TINY[name].native, call={"num_inference_steps": 2, **TINY[name].call}
    )
    config = RefineConfig(max_rounds=1, dilate=0, crop_min_side=0.25)
    result = pipe(PROMPT, **{alias: noise()}, mask_image=list(map(mask, boxes)), seed=0, config=config).results[0]
    assert (result.best, result.stop) == (1, "clean")
    changed = (np.asarray(result.image) != np.asarray(noise())).any(axis=2)
    for x0, y0, x1, y1 in boxes:
        assert changed[y0:y1, x0:x1].mean() > 0.5
        changed[y0:y1, x0:x1] = False
    assert not changed.any()


@pytest.mark.parametrize("kind", ["array", "booleans", "floats", "tensor", "smaller", "colour"])
def test_masks_of_any_kind_are_the_same(kind: str) -> None:
    one = mask((40, 8, 56, 24))
    kinds: dict[str, Any] = {
        "array": np.asarray(one),
        "booleans": np.asarray(one) > 0,
        "floats": np.asarray(one) / 255,
        "tensor": torch.from_numpy(np.asarray(one) / 255)[None],
        "smaller": one.resize((32, 32)),
        "colour": one.convert("RGB"),
    }
    pipe = wrapped(stable_diffusion())
    first, other = (
        pipe(PROMPT, image=noise(), mask_image=each, seed=0, max_rounds=1).images[0].tobytes()
        for each in (one, kinds[kind])
    )
    assert first == other != noise().tobytes()


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), dtype=np.uint8), [], "mask.png", np.zeros((2, 3, 4))])
def test_what_is_no_mask_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="mask"):
        wrapped(stable_diffusion())(PROMPT, image=noise(), mask_image=wrong)


def test_strength_is_that_of_every_try_and_height_and_width_resize_the_image() -> None:
    pipe = refined(stable_diffusion())
    result = pipe(PROMPT, image=noise(48, 80), seed=0, strength=0.25, height=64, width=32).results[0]
    assert result.attempts[0].image.size == (32, 64)
    assert result.attempts[1].calls.denoiser_rows == 2 * 1
    assert result.settings["config"]["strengths"] == [0.25]


def test_several_images_are_refined_each_with_its_own_result() -> None:
    images = [noise(seed=1), noise(48, 64, seed=2)]
    output = refined(stable_diffusion())(PROMPT, start_image=images, seed=0)
    assert [result.attempts[0].image.tobytes() for result in output.results] == [one.tobytes() for one in images]
    output = refined(stable_diffusion())(["a hand", "a cat"], start_image=images[0], seed=0)
    assert [result.prompt for result in output.results] == ["a hand", "a cat"]
    with pytest.raises(ConfigError, match="3 images to refine for 2"):
        refined(stable_diffusion())(["a hand", "a cat"], start_image=[noise()] * 3)
    with pytest.raises(ConfigError, match="pass only one"):
        refined(stable_diffusion())(PROMPT, start_image=noise(), image=noise())


def test_an_image_of_the_wrapped_calls_own_goes_to_it() -> None:
    call = {**TINY["flux-klein"].call, "num_inference_steps": 2, "height": 32, "width": 32}
    pipe, reference = flux_klein(), noise()
    plain = pipe(prompt=PROMPT, image=reference, generator=seeded(0), **call).images[0]
    ours = wrapped(pipe)(prompt=PROMPT, image=reference, generator=seeded(0), **call).images[0]
    assert ours.tobytes() == plain.tobytes()
    pipe = RefinedPipeline(pipe, detector=relenting(), native=32, call=call)
    result = pipe(PROMPT, start_image=noise(64, 64), image=reference, seed=0, max_rounds=1, strengths=(0.5,)).results[0]
    assert [attempt.action for attempt in result.attempts] == ["given", "inpaint"]
    assert result.best == 1


def test_sdxl_at_default_settings_shows_what_is_taken() -> None:
    with pytest.raises(ConfigError, match="StableDiffusionXLPipeline nor RefineConfig knows 'stepz'"):
        wrapped(stable_diffusion_xl())(PROMPT, stepz=3, num_inference_steps=STEPS)
