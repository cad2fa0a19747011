"""A region is inpainted with what its image was generated with: arguments, methods, scheduler, embeddings, caches."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback  # noqa: E402
from support.repairs import NOISE, PROMPT, STEPS, pictures  # noqa: E402
from support.tiny_newer import NEWER  # noqa: E402
from support.tiny_pipelines import TINY, flux, stable_diffusion, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import RefinerWarning  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.arguments import KINDS, for_regions, framed  # noqa: E402
from refiner.pipelines.painting.controls import cut_out_masks  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import FAMILIES, takes  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, RefinementResult, Region, Size  # noqa: E402

pytestmark = NOISE
GENERATING = [name for name in TINY if name != "sd-inpaint"]
WATCHED = [name for name in GENERATING if name != "pixart-sigma"]
"""Families whose calls take callbacks of steps."""
SHIFTED = [name for name in WATCHED if name not in ("sd", "sdxl", "sana", "kolors", "hunyuan-dit")]
"""Families whose schedulers have a shift that can be set at run time."""
BOXES = ((4, 4, 16, 16), (40, 40, 52, 52))


def finder(boxes: tuple[tuple[int, int, int, int], ...] = BOXES) -> ScriptedDetector:
    """Finds flaws in the same places, ever less severe, so that each inpainted image is kept."""
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        severity, share = next(severities), image.width / 64
        regions = tuple(
            Region(
                mask=None,
                box=tuple(int(side * share) for side in box),
                name="the hand",
                category=Category.ANATOMY,
                severity=severity,
            )
            for box in boxes
        )
        return Analysis(size=Size(image.height, image.width), regions=regions, detector="finder")

    return ScriptedDetector(look)


def wrapped(pipe: DiffusionPipeline, name: str, **options: Any) -> RefinedPipeline:
    tiny = TINY[name]
    config = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint", dilate=0.02, crop_min_side=0.25)
    call = {"num_inference_steps": STEPS, **tiny.call, **options.pop("call", {})}
    side = tiny.native or 64
    return RefinedPipeline(pipe, detector=finder(), config=config, call=call, native=side, **options)


def mended(pipe: RefinedPipeline, **options: Any) -> RefinementResult:
    result = pipe(**({"prompt": PROMPT, "seed": 0} | options)).results[0]
    assert result.best == 1, result.attempts[-1].error
    return result


def spied(name: str) -> tuple[DiffusionPipeline, list[dict[str, Any]]]:
    """A pipeline of a subclass of the user's that notes the arguments of its calls."""
    pipe, calls = TINY[name].build(), list[dict[str, Any]]()
    base = type(pipe)

    class Spied(base):  # type: ignore[misc, valid-type]
        def __call__(self, **options: Any) -> Any:
            calls.append({name: list(value) if isinstance(value, list) else value for name, value in options.items()})
            return super().__call__(**options)

    pipe.__class__ = Spied
    return pipe, calls


def unusual(default: Any) -> Any:
    if isinstance(default, bool):
        return not default
    return default * 1.25 if isinstance(default, float) else default


@pytest.mark.parametrize("name", GENERATING)
def test_the_call_of_the_wrapped_pipeline_repaints_with_every_argument_it_painted_with(name: str) -> None:
    pipe, calls = spied(name)
    given = {
        argument: unusual(each.default)
        for argument, each in takes(pipe).items()
        if argument not in KINDS and isinstance(each.default, float) and argument not in TINY[name].call
    }
    assert given
    others = {"cross_attention_kwargs": {"scale": 0.5}, "timesteps": None}
    given |= {argument: value for argument, value in others.items() if argument in takes(pipe)}
    mended(wrapped(pipe, name), **given)
    painted, repainted = calls
    for argument in {*given, *wrapped(pipe, name).call_defaults, "num_inference_steps"} - {"use_resolution_binning"}:
        assert repainted[argument] == painted[argument], argument
    assert len(repainted["prompt"]) == len(repainted["generator"]) == len(BOXES)


@pytest.mark.parametrize("name", GENERATING)
def test_without_arguments_the_defaults_of_the_same_call_hold(name: str) -> None:
    pipe, calls = spied(name)
    refined = wrapped(pipe, name)
    refined.call_defaults = dict(TINY[name].call)
    seen: list[tuple[float, int]] = []

    def note(inner: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((inner.guidance_scale, inner.num_timesteps))
        return tensors

    watched = {"callback_on_step_end": note} if "callback_on_step_end" in takes(pipe) else {}
    mended(refined, num_inference_steps=takes(pipe)["num_inference_steps"].default // 5, **watched)
    assert calls[0].keys() - KINDS.keys() == calls[1].keys() - KINDS.keys()
    if watched:
        assert seen[0][0] == seen[-1][0]
        assert seen[-1][1] == -(-seen[0][1] // 2)


@pytest.mark.parametrize("how", ["subclass", "instance"])
@pytest.mark.parametrize("name", GENERATING)
def test_overridden_methods_are_used_for_regions_too(name: str, how: str) -> None:
    pipe, heard = TINY[name].build(), list[Any]()
    base = type(pipe)

    class Own(base):  # type: ignore[misc, valid-type]
        def encode_prompt(self, *args: Any, **options: Any) -> Any:
            heard.append((args, options))
            return super().encode_prompt(*args, **options)

    if how == "subclass":
        pipe.__class__ = Own
    else:
        inner = pipe.encode_prompt
        own = functools.wraps(inner)(
            lambda *args, **options: (heard.append((args, options)), inner(*args, **options))[1]
        )
        pipe.encode_prompt = own
    mended(wrapped(pipe, name))
    assert len(heard) >= 2
    assert "encode_prompt" not in vars(pipe) or vars(pipe)["encode_prompt"] is own


@pytest.mark.parametrize("name", SHIFTED)
def test_the_schedulers_state_at_run_time_is_used(name: str) -> None:
    pipe = TINY[name].build()
    pipe.scheduler.set_shift(7.0)
    seen: list[float] = []

    def note(inner: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(inner.scheduler.shift)
        return tensors

    mended(wrapped(pipe, name), callback_on_step_end=note)
    assert len(seen) > STEPS
    assert set(seen) == {7.0}


# Text: further prompts, negative prompts, embeddings


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_region_prompts_and_revisions_reach_every_text_encoder(name: str) -> None:
    pipe, calls = spied(name)
    mended(wrapped(pipe, name), prompt_2=PROMPT)
    assert calls[1]["prompt_2"] == calls[1]["prompt"] == ["a red hand"] * 2
    calls.clear()
    mended(wrapped(pipe, name), prompt_2="oil painting")
    assert calls[1]["prompt"] == ["a red hand"] * 2
    assert calls[1]["prompt_2"] == ["oil painting"] * 2
    calls.clear()
    wrapped(pipe, name)(PROMPT, seed=0, prompt_2=PROMPT, strategy="regenerate")
    assert calls[1]["prompt"] == calls[1]["prompt_2"] == f"{PROMPT} a red hand"


@pytest.mark.parametrize("name", [name for name in GENERATING if name != "flux-klein"])
def test_lists_have_a_negative_prompt_for_each_prompt(name: str) -> None:
    pipe, calls = spied(name)
    with_two = wrapped(pipe, name)
    with_two(prompt=[PROMPT, "a cat"], negative_prompt=["blur", ""], seed=0, batch_images=1)
    starts = [call["negative_prompt"] for call in calls if len(call["prompt"]) == 1 or isinstance(call["prompt"], str)]
    assert starts == [["blur"], [""]]
    regions = [call for call in calls if len(call["prompt"]) == 2]
    assert [call["negative_prompt"][0].split(",")[0] for call in regions] == ["blur", ""]


@pytest.mark.parametrize("negative", ["", None])
@pytest.mark.parametrize("name", ["flux", "qwen-image"])
def test_an_empty_negative_prompt_switches_guidance_on_and_none_does_not(name: str, negative: str | None) -> None:
    result = mended(wrapped(TINY[name].build(), name), negative_prompt=negative, true_cfg_scale=3.0)
    rows = 1 if negative is None else 2
    assert [attempt.calls.denoiser_rows for attempt in result.attempts] == [STEPS * rows, STEPS // 2 * rows * 2]


EMBEDDINGS: Mapping[str, tuple[str | None, ...]] = {
    "sd": ("prompt_embeds", "negative_prompt_embeds"),
    "sdxl": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "sd3": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "flux": ("prompt_embeds", "pooled_prompt_embeds", None),
    "flux-klein": ("prompt_embeds", None),
    "qwen-image": ("prompt_embeds", "prompt_embeds_mask"),
    "z-image": ("prompt_embeds", "negative_prompt_embeds"),
    "kolors": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "pixart-sigma": (
        "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask",
    ),
    "sana": ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"),
    "aura-flow": ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"),
    "lumina2": ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"),
    "cogview4": ("prompt_embeds", "negative_prompt_embeds"),
}  # fmt: skip
"""Family -> the arguments that the results of ``encode_prompt`` are passed as. Others need several calls of it."""


def embedded(pipe: DiffusionPipeline, name: str) -> dict[str, Any]:
    taken = {"device": torch.device("cpu"), "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    taken |= {"prompt_2": None, "prompt_3": None} | dict(TINY[name].call)
    known = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        made = pipe.encode_prompt(prompt=PROMPT, **{key: value for key, value in taken.items() if key in known})
    return {
        argument: value
        for argument, value in zip(EMBEDDINGS[name], made, strict=False)
        if argument and value is not None
    }


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_are_used_for_regions_as_the_whole_prompt_is(name: str) -> None:
    pipe = TINY[name].build()
    by_text = mended(wrapped(pipe, name), region_prompt="whole")
    given = embedded(pipe, name)
    if takes(pipe)["negative_prompt_embeds"].default is None and "negative_prompt_embeds" in given:
        given["negative_prompt"] = None  # where the default is a text, diffusers asks for this
    beside = mended(wrapped(pipe, name), **given)
    assert [attempt.calls for attempt in beside.attempts] == [attempt.calls for attempt in by_text.attempts]
    gaps = [
        np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max()
        for one, other in zip(beside.attempts, by_text.attempts, strict=True)
    ]
    assert max(gaps) <= 1
    alone = mended(wrapped(pipe, name), prompt=None, **given)
    assert pictures(alone)[0] == pictures(beside)[0]


# What is cut out


def test_sizes_that_sdxl_is_conditioned_on_are_moved_to_the_region() -> None:
    pipe, calls = spied("sdxl")
    refined = wrapped(pipe, "sdxl", call={})
    sizes = {"original_size": (512, 640), "target_size": (64, 64), "crops_coords_top_left": (8, 16)}
    mended(refined, **sizes)
    assert len(calls) == 1 + len(BOXES)  # each region has sizes of its own, so that they are separate calls
    for call in calls[1:]:
        assert call["original_size"] == (512, 640)
        assert call["target_size"] == (call["height"], call["width"])
    assert calls[1]["crops_coords_top_left"] != calls[2]["crops_coords_top_left"]


def test_an_offset_is_that_of_the_image_plus_that_of_the_part_both_scaled() -> None:
    mask = np.ones((64, 64), dtype=bool)
    crop = Crop(
        image=Image.new("RGB", (64, 64)), mask=mask, prompt="", negative_prompt="", seed=0, strength=1.0,
        place=((16, 8, 48, 40), Size(64, 64)),
    )  # fmt: skip
    assert framed("crops_coords_top_left", (1, 2), crop) == (2 * (1 + 8), 2 * (2 + 16))
    assert framed("negative_target_size", (64, 64), crop) == (64, 64)


@pytest.mark.parametrize("form", ["one tensor", "a list of two"])
def test_masks_of_ip_adapters_are_cut_out_as_the_region_is(form: str) -> None:
    whole = torch.zeros(1, 1, 128, 128)
    whole[..., 32:64, 16:48] = 1  # in pixels of an image of 64 x 64: from (8, 16) to (24, 32)
    crop = Crop(
        image=Image.new("RGB", (32, 32)), mask=np.ones((32, 32), dtype=bool), prompt="", negative_prompt="", seed=0,
        strength=1.0, place=((16, 16, 32, 32), Size(64, 64)),
    )  # fmt: skip
    cut = cut_out_masks([whole, whole] if form != "one tensor" else whole, crop)
    for part in cut if isinstance(cut, list) else [cut]:
        assert part.shape == (1, 1, 32, 32)
        assert part[0, 0, :, :16].all()
        assert not part[0, 0, :, 16:].any()
    kwargs = {"scale": 0.5, "ip_adapter_masks": whole}
    made = for_regions(TINY["sd"].build(), {"cross_attention_kwargs": kwargs}, [crop])["cross_attention_kwargs"]
    assert made["scale"] == 0.5
    assert made["ip_adapter_masks"].shape == (1, 1, 32, 32)
    assert kwargs["ip_adapter_masks"] is whole


# Callbacks with tensors, autoencoders, caches


@pytest.mark.parametrize(
    ("name", "cutoff"), [("sd", SDCFGCutoffCallback), ("sdxl", SDXLCFGCutoffCallback)], ids=["sd", "sdxl"]
)
@pytest.mark.parametrize("regions", [1, 2])
def test_diffusers_own_guidance_cutoff_works_at_any_number_of_regions(name: str, cutoff: Any, regions: int) -> None:
    pipe = TINY[name].build()
    refined = wrapped(pipe, name, call={"guidance_scale": 5.0})
    refined.detector = finder(BOXES[:regions])
    result = mended(refined, callback_on_step_end=cutoff(cutoff_step_ratio=0.5))
    # It halves the rows after the first half of the steps.
    assert [attempt.calls.denoiser_rows for attempt in result.attempts] == [2 * 3 + 1, regions * (2 * 2)]


@pytest.mark.parametrize("name", WATCHED)
def test_callbacks_get_the_tensors_that_they_ask_for(name: str) -> None:
    pipe = TINY[name].build()
    seen: list[int] = []

    def note(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(tensors["prompt_embeds"]))
        return {"latents": tensors["latents"] * 1.01}

    wanted = ["latents", "prompt_embeds"]
    mended(wrapped(pipe, name), callback_on_step_end=note, callback_on_step_end_tensor_inputs=wanted)
    assert len(seen) > STEPS


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sd3", "pixart-sigma", "kolors", "chroma", "z-image"])
def test_a_tiny_autoencoder_paints_and_repaints(name: str) -> None:
    pipe = TINY[name].build()
    channels, blocks = pipe.vae.config.latent_channels, (8,) * len(pipe.vae.config.block_out_channels)
    ones = (1,) * len(blocks)
    pipe.vae = diffusers.AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=blocks, decoder_block_out_channels=blocks,
        num_encoder_blocks=ones, num_decoder_blocks=ones,
    ).eval()  # fmt: skip
    mended(wrapped(pipe, name))


# Failures and overlapping calls leave everything as it was


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    parts = {"": pipe, **pipe.components}
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    # transformers adds hooks to text encoders in their first run.
    inner = [module for part in networks if "text" not in type(part).__module__ for module in part.modules()]
    return {
        "parts": {name: (id(part), sorted(getattr(part, "__dict__", ()))) for name, part in parts.items()},
        "scheduler": sorted(vars(pipe.scheduler)),
        "dtypes": [part.dtype for part in networks if hasattr(part, "dtype")],
        "methods": [{"forward", "encode", "_compiled_call_impl"} & vars(module).keys() for module in inner],
    }


@pytest.mark.parametrize("when", ["painting", "repainting"])
@pytest.mark.parametrize("name", WATCHED)
def test_a_failed_call_leaves_the_pipeline_as_it_was_and_keeps_what_there_is(name: str, when: str) -> None:
    pipe = TINY[name].build()
    refined = wrapped(pipe, name)
    refined(PROMPT, seed=0, max_rounds=0)
    before = state(pipe)

    def fail(inner: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if when == "painting" or inner.scheduler is not scheduler:
            raise ZeroDivisionError("a bug of the user's")
        return tensors

    scheduler = pipe.scheduler
    if when == "painting":
        with pytest.raises(ZeroDivisionError, match="a bug"):
            refined(PROMPT, seed=0, callback_on_step_end=fail)
    else:
        result = refined(PROMPT, seed=0, callback_on_step_end=fail).results[0]
        assert (result.best, result.stop) == (0, "failed")
        assert result.attempts[1].error == "ZeroDivisionError: a bug of the user's"
    assert state(pipe) == before
    assert scheduler is pipe.scheduler


@pytest.mark.parametrize("batch_images", [None, 1])
def test_one_image_that_fails_costs_one_image(batch_images: int | None) -> None:
    class Spoils(diffusers.StableDiffusionPipeline):
        def encode_prompt(self, prompt: Any, *args: Any, **options: Any) -> Any:
            if "forbidden" in prompt:
                raise ZeroDivisionError("a bug of the user's")
            return super().encode_prompt(prompt, *args, **options)

    pipe = wrapped(stable_diffusion(Spoils), "sd")
    plain = pipe([PROMPT, "a cat"], seed=0, batch_images=1, max_rounds=0)
    with pytest.warns(RefinerWarning, match=r"1 of 3 images could not be generated \(image 1: ZeroDivisionError"):
        output = pipe([PROMPT, "forbidden", "a cat"], seed=0, batch_images=batch_images, max_rounds=0)
    assert [image.tobytes() for image in output.images] == [image.tobytes() for image in plain.images]
    assert [result.prompt for result in output.results] == [PROMPT, "forbidden", "a cat"]
    assert [result.attempts[0].error for result in output.results] == [
        None,
        "ZeroDivisionError: a bug of the user's",
        None,
    ]
    with pytest.raises(ZeroDivisionError):
        pipe([PROMPT, "forbidden"], seed=0, on_error="raise")
    with pytest.raises(ZeroDivisionError):
        pipe(["forbidden", "forbidden"], seed=0)


def test_a_callback_on_attempts_that_fails_ends_its_image_alone() -> None:
    def fail(attempt: Any) -> None:
        if attempt.prompt == PROMPT:
            raise ZeroDivisionError("a bug of the user's")

    pipe = wrapped(stable_diffusion(), "sd")
    first, second = pipe([PROMPT, "a cat"], seed=0, callback_on_attempt=fail).results
    assert (len(first.attempts), first.attempts[0].error) == (1, "ZeroDivisionError: a bug of the user's")
    assert len(second.attempts) == 2
    with pytest.raises(ZeroDivisionError):
        pipe(PROMPT, seed=0, callback_on_attempt=fail, on_error="raise")


def test_where_nothing_can_be_analysed_python_warns_once() -> None:
    def look(_image: Image.Image) -> Analysis:
        raise ZeroDivisionError("a broken detector")

    pipe = RefinedPipeline(stable_diffusion(), detector=ScriptedDetector(look), call={"num_inference_steps": 2})
    with pytest.warns(RefinerWarning, match="No image could be analysed.*a broken detector") as caught:
        output = pipe([PROMPT, "a cat"], seed=0)
    assert len(caught) == 1
    assert len(output.images) == 2


@pytest.mark.parametrize("shared", ["the pipeline", "the weights"])
@pytest.mark.parametrize("build", [stable_diffusion, stable_diffusion_xl, flux], ids=["sd", "sdxl", "flux"])
def test_calls_that_overlap_give_what_they_give_one_after_the_other(build: Callable[[], Any], shared: str) -> None:
    name = {stable_diffusion: "sd", stable_diffusion_xl: "sdxl", flux: "flux"}[build]
    pipe = build()
    other = pipe if shared == "the pipeline" else type(pipe)(**pipe.components, **extra(pipe))
    other.set_progress_bar_config(disable=True)
    pipes = [wrapped(pipe, name), wrapped(other, name)]
    alone = [mended(wrapped(each.pipe, name), seed=seed) for seed, each in enumerate(pipes)]
    before, made = state(pipe), dict[int, RefinementResult]()
    together = threading.Barrier(2)

    def work(number: int) -> None:
        together.wait()
        made[number] = mended(pipes[number], seed=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [pictures(made[number]) for number in range(2)] == [pictures(result) for result in alone]
    calls = [[attempt.calls for attempt in made[number].attempts] for number in range(2)]
    assert calls == [[attempt.calls for attempt in result.attempts] for result in alone]
    assert state(pipe) == before


def extra(pipe: DiffusionPipeline) -> dict[str, Any]:
    return {"requires_safety_checker": False} if "requires_safety_checker" in pipe.config else {}


def test_every_text_to_image_family_of_the_table_is_tested_here() -> None:
    """But for those with a ControlNet and the newer ones, which have their own tests."""
    others = ("Inpaint", "ControlNet", "Img2Img", "Fill", "PAG", "FluxKontext")
    plain = {name for name in FAMILIES.keys() - NEWER.keys() if not any(word in name for word in others)}
    assert {type(TINY[name].build()).__name__ for name in GENERATING} == plain
    assert [name for name in GENERATING if "callback_on_step_end" in takes(TINY[name].build())] == WATCHED
    assert [name for name in WATCHED if hasattr(TINY[name].build().scheduler, "set_shift")] == SHIFTED
