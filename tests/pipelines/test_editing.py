"""The laws that hold for every edit model of ``EDITORS`` as the ``inpainter=``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support.repairs import BOX, NOISE, PROMPT, pictures, relenting, weights
from support.tiny_editors import CALLS, NAMES, SIDE, editor, plain, small_areas
from support.tiny_pipelines import flux_klein, stable_diffusion

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.pipelines import RefineConfig, RefinedPipeline
from refiner.pipelines.editing.editors import EDITORS
from refiner.pipelines.editing.registration import Shift, moved, registered, shift_of
from refiner.pipelines.painting.crops import Crop
from refiner.pipelines.painting.families import takes
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.taxonomy import Category
from refiner.types import Analysis, RefinementResult, Region, Size

pytestmark = [*NOISE, pytest.mark.filterwarnings("ignore:.*lossy conversion:UserWarning")]
MASKLESS = [name for name in NAMES if not EDITORS[name].masked]
ORDER = "Give the hand its natural anatomy."


@pytest.fixture(autouse=True)
def _small_areas() -> Iterator[None]:
    with small_areas():
        yield


@functools.cache
def generator() -> diffusers.DiffusionPipeline:
    return stable_diffusion()


def call_of(name: str) -> dict[str, Any]:
    return {"num_inference_steps": 2, **CALLS.get(name, {})}


def refined(name: str, pipe: Any = None, config: Mapping[str, Any] | None = None, **call: Any) -> RefinedPipeline:
    return RefinedPipeline(
        generator(), detector=relenting(), inpainter=pipe or editor(name), native=SIDE,
        config=RefineConfig(max_rounds=1, strategy="inpaint", **(config or {})), call={"num_inference_steps": 1},
        inpaint_call={**call_of(name), **call},
    )  # fmt: skip


def mended(pipe: RefinedPipeline, given: Image.Image, **options: Any) -> RefinementResult:
    """A refinement whose last image has an edited region."""
    pipe.detector = relenting()
    result = pipe(PROMPT, start_image=given, seed=1, **options).results[0]
    assert result.best == len(result.attempts) - 1 == 1, result.attempts[-1].error
    return result


def crop(seed: int, prompt: str, negative: str = "", image: Image.Image | None = None) -> Crop:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[16:40, 16:40] = True
    return Crop(
        image=image or plain(seed=seed), mask=mask, prompt=prompt, negative_prompt=negative, seed=seed, strength=1.0
    )


def painter(name: str, pipe: Any = None, **call: Any) -> DiffusersPainter:
    settings = PaintSettings(native=SIDE, inpaint_options={**call_of(name), **call})
    return DiffusersPainter(generator(), settings, inpainter=pipe or editor(name))


def test_every_edit_model_of_the_table_has_a_tiny_one() -> None:
    assert EDITORS.keys() == set(NAMES)
    assert all(hasattr(diffusers, name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_outside_the_mask_and_the_pipeline_stay_as_they_were(name: str) -> None:
    pipe, given = editor(name), plain(96, 80)
    refined(name)  # builds the generator, with random weights
    state = weights(pipe), dict(pipe.scheduler.config), sorted(vars(pipe.scheduler)), torch.get_rng_state()
    first, second = (mended(refined(name), given) for _ in range(2))
    changed = (np.asarray(first.image) != np.asarray(given)).any(axis=2)
    assert changed[BOX[1] : BOX[3], BOX[0] : BOX[2]].mean() > 0.5
    assert not changed[~first.attempts[1].painted].any()
    assert not changed[40:].any()
    assert pictures(first) == pictures(second)
    again = weights(pipe), dict(pipe.scheduler.config), sorted(vars(pipe.scheduler)), torch.get_rng_state()
    assert again[:3] == state[:3]
    assert torch.equal(again[3], state[3])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("negative", ["", "blur"])
def test_a_batch_equals_single_calls_and_instruction_and_seed_count(name: str, negative: str) -> None:
    crops = [crop(seed, f"{ORDER} Now {seed * 'really '}.", negative) for seed in range(3)]
    crops += [crop(2, "Make it blue.", negative), crop(3, crops[2].prompt, negative, crops[2].image)]
    made = painter(name)
    together = made.paint(crops)
    for one, pixels in zip(crops, together, strict=True):
        assert np.abs(pixels - made.paint([one])[0]).max() <= 5e-5
    assert not np.array_equal(together[2], together[3])
    assert np.abs(together[2] - together[4]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_instruction_says_what_is_wrong_and_is_in_the_record(name: str) -> None:
    calls, pipe = list[dict[str, Any]](), editor(name)

    class Listening(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **options: Any) -> Any:
            calls.append(options)
            return super().__call__(*args, **options)

    listening = Listening(**pipe.components)
    listening.set_progress_bar_config(disable=True)
    result = mended(refined(name, listening), plain())
    told = calls[0]["prompt"] if isinstance(calls[0]["prompt"], str) else calls[0]["prompt"][0]
    assert result.attempts[1].prompt in told
    assert result.attempts[1].prompt.startswith("Give the hand its natural anatomy.")
    assert result.attempts[1].prompt.endswith("Keep everything else exactly as it is.")
    mended(refined(name, listening), plain(), prompts="paint it [PROMPT]")
    told = calls[1]["prompt"] if isinstance(calls[1]["prompt"], str) else calls[1]["prompt"][0]
    assert f"paint it {PROMPT}" in told
    assert "Keep" not in told


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_reaches_the_call_or_is_refused_by_name(name: str) -> None:
    pipe, heard = editor(name), dict[str, Any]()

    class Listening(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **options: Any) -> Any:
            heard.update(options)
            return super().__call__(*args, **options)

    listening = Listening(**pipe.components)
    listening.set_progress_bar_config(disable=True)
    numbers = {
        key: each.default + 1
        for key, each in takes(pipe).items()
        if type(each.default) in (int, float) and key not in ("num_images_per_prompt", "strength", *EDITORS[name].set)
        and key not in CALLS.get(name, {}) and "max_" not in key
    }  # fmt: skip
    numbers["num_inference_steps"] = 3
    assert {"guidance_scale", "true_cfg_scale"} & numbers.keys()
    mended(refined(name, listening, **numbers), plain())
    assert {key: heard[key] for key in numbers} == numbers
    for refused in ({"image", "input_images"} & takes(pipe).keys()) | {"prompt", "height", "generator", "output_type"}:
        with pytest.raises(ConfigError, match=rf"^{refused} .in inpaint_call=. is not taken"):
            refined(name, **{refused: 1})
    for unknown in ("guidance_scales", "prompt_embed"):
        with pytest.raises(ConfigError, match=f"takes no argument '{unknown}'"):
            refined(name, **{unknown: 1})


@pytest.mark.parametrize("name", MASKLESS)
def test_embeddings_and_settings_of_noise_are_refused_by_name(name: str) -> None:
    embeddings = {"prompt_embeds", "prompt_embeds_mask", "pooled_prompt_embeds"} & takes(editor(name)).keys()
    for each in embeddings:
        with pytest.raises(ConfigError, match=rf"^{each} .in inpaint_call=. is not taken.*instruction"):
            refined(name, **{each: torch.ones(1, 4, 4)})
    settings = {"strengths": (0.3,), "severity_strength": 0.5, "area_strength": 0.5, "soft_edge": 0.1}
    for setting, value in settings.items():
        with pytest.raises(ConfigError, match=f"{setting} has no effect with .*, which edits a region"):
            refined(name, config={setting: value})(PROMPT, start_image=plain())


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_prompt_of_the_user_reaches_the_call_or_is_refused(name: str) -> None:
    if "negative_prompt" not in takes(editor(name)):
        with pytest.raises(ConfigError, match="negative_prompt"):
            refined(name, negative_prompt="blur")
        told, usual = (painter(name).paint([crop(0, ORDER, negative)])[0] for negative in ("blur", ""))
        assert not np.array_equal(told, usual)  # a negative prompt of the whole image is said in the instruction
        return
    switched = "guidance_scale" not in takes(editor(name)) or "true_cfg_scale" in takes(editor(name))
    guided = {"true_cfg_scale": 4.0} if switched else {"guidance_scale": 4.0}
    usual, changed = (
        painter(name, **guided, **call).paint([crop(0, ORDER)])[0]
        for call in ({}, {"negative_prompt": "blur, noise and much more of it"})
    )
    assert not np.array_equal(usual, changed)


def answering(name: str, change: Any) -> diffusers.DiffusionPipeline:
    """An edit model whose answers, float (N, h, w, 3), are changed before they are returned."""
    pipe = editor(name)

    class Changed(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **options: Any) -> Any:
            answer = super().__call__(*args, **options)
            answer.images = change(answer.images)
            return answer

    changed = Changed(**pipe.components)
    changed.set_progress_bar_config(disable=True)
    return changed


def scaled(images: np.ndarray, side: int) -> np.ndarray:
    picture = [Image.fromarray((image * 255).round().astype(np.uint8)).resize((side, side)) for image in images]
    return np.stack([np.asarray(each, dtype=np.float32) / 255 for each in picture])


FIXABLE = {
    "another size": lambda images: scaled(images, 96),
    "a shift": lambda images: np.roll(images, (3, -2), axis=(1, 2)),
    "another colour": lambda images: (images * 0.9 + 0.06).clip(0, 1),
}


@pytest.mark.parametrize("name", MASKLESS)
@pytest.mark.parametrize("change", FIXABLE)
def test_an_answer_of_another_size_place_or_colour_is_fitted_to_its_region(name: str, change: str) -> None:
    given = plain(seed=4)
    usual = np.asarray(mended(refined(name), given).image).astype(int)
    fitted = np.asarray(mended(refined(name, answering(name, FIXABLE[change])), given).image).astype(int)
    spoilt = np.abs(np.asarray(given).astype(int) - usual).max()
    assert np.abs(fitted - usual).mean() < 0.35
    assert np.abs(fitted - usual).max() <= max(16, spoilt)


@pytest.mark.parametrize("name", MASKLESS)
def test_an_answer_that_shows_something_else_is_not_pasted(name: str) -> None:
    def other(images: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).random(images.shape, dtype=np.float32)

    pipe = refined(name, answering(name, other))
    result = pipe(PROMPT, start_image=plain(), seed=1).results[0]
    assert result.best == 0
    assert "another image than the region" in result.attempts[1].error


def test_of_several_answers_those_that_show_something_else_leave_their_regions_as_they_were() -> None:
    numbers = iter(range(10))

    def every_other(images: np.ndarray) -> np.ndarray:
        return images if next(numbers) % 2 else np.random.default_rng(0).random(images.shape, dtype=np.float32)

    given, boxes = plain(96, 96, seed=3), [(8, 8, 20, 20), (60, 60, 76, 76)]
    severities = iter(0.8**n for n in range(10))

    def look(image: Image.Image) -> Analysis:
        severity = next(severities)
        regions = [
            Region(mask=None, box=box, name="hand", category=Category.ANATOMY, severity=severity) for box in boxes
        ]
        return Analysis(size=Size(image.height, image.width), regions=tuple(regions), detector="two")

    pipe = refined("Flux2Pipeline", answering("Flux2Pipeline", every_other)).with_parts(detector=ScriptedDetector(look))
    kept = pipe(PROMPT, start_image=given, seed=1).results[0].attempts[1]
    assert "1 of 2 crops are unchanged. The edit model returned another image" in kept.note
    changed = (np.asarray(kept.image) != np.asarray(given)).any(axis=2)
    assert not changed[:40, :40].any()
    assert changed[60:76, 60:76].mean() > 0.5


@pytest.mark.parametrize("shift", [(0, 0), (4, 0), (-3, 6), (5, 5)])
@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("size", [(96, 96), (100, 141)])
def test_a_known_shift_is_found_whatever_is_changed_inside_the_mask(
    shift: tuple[int, int], noise: float, size: tuple[int, int]
) -> None:
    old = np.asarray(plain(*size, seed=5), dtype=np.float32) / 255
    mask = np.zeros(size, dtype=bool)
    mask[20:70, 30:80] = True
    rng, new = np.random.default_rng(6), old.copy()
    new[mask] = rng.random((int(mask.sum()), 3), dtype=np.float32)
    new = np.roll(new, shift, axis=(0, 1)) * 0.9 + rng.normal(0.03, noise, (*size, 3)).astype(np.float32)
    assert shift_of(new, old, ~mask) == shift
    assert np.array_equal(moved(np.roll(old, shift, axis=(0, 1)), Shift(*shift))[8:-8, 8:-8], old[8:-8, 8:-8])


def test_a_plain_answer_is_neither_moved_nor_refused() -> None:
    mask, sky = np.zeros((64, 64), dtype=bool), Image.new("RGB", (64, 64), (90, 140, 220))
    mask[20:40, 20:40] = True
    answer = np.random.default_rng(0).normal(0.4, 0.01, (64, 64, 3)).clip(0, 1).astype(np.float32)
    assert np.array_equal(registered(answer, sky, mask), answer)


def test_a_text_that_is_too_long_is_cut_where_the_call_would_fail() -> None:
    long = " ".join(["The hand has six fingers and they are all bent in the wrong way."] * 40)
    assert painter("LongCatImageEditPipeline").paint([crop(0, long)])[0].shape == (SIDE, SIDE, 3)


def test_reference_images_that_would_not_reach_the_edits_are_refused() -> None:
    pipe = flux_klein()
    options = {"num_inference_steps": 1, "text_encoder_out_layers": (0, 1, 2), "height": 64, "width": 64}
    both = RefinedPipeline(pipe, detector=ScriptedDetector(lambda image: []), inpainter=pipe, call=options, native=64)
    with pytest.raises(ConfigError, match="image has no effect on the regions that Flux2KleinPipeline edits"):
        both("a hand", seed=1, image=Image.new("RGB", (64, 64)))
