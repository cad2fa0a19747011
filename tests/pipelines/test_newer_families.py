"""Newer text-to-image pipelines inpaint by their own call: their latents are encoded and packed as they expect."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from support.repairs import NOISE, PROMPT, STEPS, relenting  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.borrowing import before_passes  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import denoiser_of  # noqa: E402
from refiner.pipelines.painting.latents import encoded  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import PaintJob  # noqa: E402
from refiner.types import RefinementResult  # noqa: E402

pytestmark = NOISE
PASSES = {
    "Flux2Pipeline": 1, "FluxKontextPipeline": 1, "HiDreamImagePipeline": 2, "HunyuanImagePipeline": 2,
    "OvisImagePipeline": 2, "Krea2Pipeline": 2, "LongCatImagePipeline": 1, "OmniGenPipeline": 2,
    "BriaFibo2Pipeline": 2, "DreamLitePipeline": 2,
}  # fmt: skip
"""Class -> denoiser rows of one image in one step."""


@functools.cache
def built(row: str) -> DiffusionPipeline:
    return ROWS[row].build()


def painter_of(row: str, height: int = 32, width: int = 32) -> DiffusersPainter:
    options = {"num_inference_steps": STEPS, **ROWS[row].call}
    return DiffusersPainter(built(row), PaintSettings(native=32, options=options, height=height, width=width))


def crop(size: Sequence[int], mask: float, strength: float) -> Crop:
    """A crop whose left part is masked; ``mask`` is the share of its width."""
    masked = np.zeros(tuple(size), dtype=bool)
    masked[:, : round(size[1] * mask)] = True
    return Crop(image=noise(*size), mask=masked, prompt=PROMPT, negative_prompt="", seed=5, strength=strength)


@pytest.mark.parametrize("row", PASSES)
def test_repainting_everything_from_noise_is_painting(row: str) -> None:
    painter = painter_of(row)
    painted = painter.generate([PaintJob(prompt=PROMPT, seed=5)])[0]
    assert painter.spent().denoiser_rows == STEPS * PASSES[row]
    repainted = (painter.paint([crop((32, 32), 1.0, 1.0)])[0] * 255).round()
    assert painter.spent().denoiser_rows == 2 * STEPS * PASSES[row]
    assert np.abs(repainted - np.asarray(painted)).max() <= 1


@pytest.mark.parametrize("row", PASSES)
@pytest.mark.parametrize("size", [(32, 64), (64, 32)])
def test_repainting_nothing_is_the_autoencoders_round_trip(
    row: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So colours and places do not change: what is done to latents between encoding and decoding is undone."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    vae = built(row).vae
    pixels = torch.from_numpy(np.asarray(noise(*size), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        latents = encoded(vae, pixels[:, :, None] if row == "Krea2Pipeline" else pixels)
        decoded = vae.decode(latents).sample.reshape(3, *size).permute(1, 2, 0).numpy() / 2 + 0.5
    painted = painter_of(row).paint([crop(size, 0.0, 0.6)])[0]
    assert painted.shape == (*size, 3)
    assert np.abs(painted - decoded.clip(0, 1)).max() <= 2e-4


@pytest.mark.parametrize("row", PASSES)
def test_what_is_kept_loses_its_noise_step_by_step_whatever_the_strength(row: str) -> None:
    """The latents outside a mask are those of the image at the noise level of each step."""
    seen = list[Any]()
    denoiser = denoiser_of(built(row))
    with before_passes(denoiser, lambda args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"])[0])):
        painter = painter_of(row)
        painter.paint([crop((32, 32), 0.0, 1.0)])
        whole, seen[:] = seen[:: len(seen) // STEPS], []
        painter.paint([crop((32, 32), 0.0, 0.5)])
        half = seen[:: len(seen) // (STEPS // 2)]
    assert all(torch.equal(one, other) for one, other in zip(whole[STEPS // 2 :], half, strict=True))
    away = [float((latents - whole[-1]).norm()) for latents in whole]
    assert away == sorted(away, reverse=True)
    assert away[0] > 1


# Arguments that other families do not have


def refined(pipe: DiffusionPipeline, **call: Any) -> RefinedPipeline:
    options = {"num_inference_steps": STEPS, **ROWS[type(pipe).__name__].call, **call}
    config = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint", region_prompt="whole")
    return RefinedPipeline(pipe, detector=relenting(), config=config, call=options, native=32)


def mended(pipe: DiffusionPipeline, **options: Any) -> RefinementResult:
    result = refined(pipe, **options.pop("call", {}))(**{"prompt": PROMPT, "seed": 1, **options}).results[0]
    assert result.best == 1, result.attempts[-1].error
    return result


EMBEDDINGS: Mapping[str, tuple[str, ...]] = {
    "Flux2Pipeline": ("prompt_embeds",),
    "OvisImagePipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "Krea2Pipeline": ("prompt_embeds", "prompt_embeds_mask"),
    "HunyuanImagePipeline": ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2"),
    "HiDreamImagePipeline": (
        "prompt_embeds_t5", "negative_prompt_embeds_t5", "prompt_embeds_llama3", "negative_prompt_embeds_llama3",
        "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
    ),
}  # fmt: skip
"""Class -> the arguments that the results of ``encode_prompt`` are passed as."""


@pytest.mark.parametrize("row", EMBEDDINGS)
def test_embeddings_are_used_for_regions_as_the_whole_prompt_is(row: str) -> None:
    pipe, other = built(row), "a green clock"
    taken = {"prompt_2": None, "prompt_3": None, "prompt_4": None, **ROWS[row].call}
    known = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        both = [
            pipe.encode_prompt(prompt=text, **{key: value for key, value in taken.items() if key in known})
            for text in (PROMPT, other)
        ]
    given = [dict(zip(EMBEDDINGS[row], made, strict=False)) for made in both]
    by_text = [mended(pipe, prompt=text) for text in (PROMPT, other)]
    written = {"negative_prompt": None} if "negative_prompt_embeds" in given[0] else {}  # else there is a text
    by_rows = [mended(pipe, prompt=None, **each, **written) for each in given]
    joined = {name: torch.cat([each[name] for each in given], dim=1 if "llama3" in name else 0) for name in given[0]}
    together = refined(pipe)(seed=1, prompt=[PROMPT, other], **joined, **written).results
    apart = refined(pipe)(seed=1, prompt=[PROMPT, other], **joined, **written, batch_images=1, max_rounds=0).images
    for one, image in zip(together, apart, strict=True):
        assert np.abs(np.asarray(one.attempts[0].image).astype(int) - np.asarray(image)).max() <= 1
    for text, alone, row_of in zip(by_text, by_rows, together, strict=True):
        assert [attempt.calls for attempt in alone.attempts] == [attempt.calls for attempt in text.attempts]
        for one, same in zip(text.attempts, alone.attempts, strict=True):
            assert np.abs(np.asarray(one.image).astype(int) - np.asarray(same.image)).max() <= 1
        assert row_of.best == 1
    assert (
        np.abs(np.asarray(together[0].attempts[0].image).astype(int) - np.asarray(by_text[0].attempts[0].image)).max()
        <= 1
    )


@pytest.mark.parametrize(
    ("row", "argument"),
    [("Flux2Pipeline", "image"), ("FluxKontextPipeline", "image"), ("OmniGenPipeline", "input_images")],
)
def test_reference_images_reach_the_image_and_its_regions(row: str, argument: str) -> None:
    pipe, listed = built(row), argument == "input_images"
    prompt = "<img><|image_1|></img> a hand" if listed else PROMPT
    found = []
    for seed in (7, 8):
        reference = noise(64, 64, seed)
        call = {"prompt": prompt, argument: [reference] if listed else reference}
        call |= {"_auto_resize": False} if row == "FluxKontextPipeline" else {}  # to a megapixel
        found.append([mended(pipe, **call).image, mended(pipe, start_image=noise(64, 64, 1), **call).image])
    assert all(one.tobytes() != other.tobytes() for one, other in zip(*found, strict=True))
    if listed:
        call = {"prompt": [prompt, prompt], "seed": 1, "input_images": [[noise(64, 64, seed)] for seed in (7, 8)]}
        assert [result.best for result in refined(pipe)(**call).results] == [1, 1]
        apart = refined(pipe)(**call, batch_images=1, max_rounds=0).images
        assert apart[0].tobytes() != apart[1].tobytes()


def test_long_cat_guides_a_batch_of_regions_as_single_ones() -> None:
    options = {"num_inference_steps": STEPS, **ROWS["LongCatImagePipeline"].call, "guidance_scale": 4.0}
    painter = DiffusersPainter(built("LongCatImagePipeline"), PaintSettings(native=32, options=options))
    crops = [replace(crop((32, 32), 0.5, 0.5), seed=seed, prompt=PROMPT[: 8 + seed]) for seed in range(3)]
    together = painter.paint(crops)
    assert painter.spent().denoiser_rows == 3 * 2 * STEPS // 2
    for each, pixels in zip(crops, together, strict=True):
        assert np.abs(painter.paint([each])[0] - pixels).max() <= 5e-5


def test_regions_with_reference_images_in_omni_gen_equal_single_calls() -> None:
    """It draws the latents of the images without a generator."""
    prompt = "<img><|image_1|></img> a hand"
    options = {"num_inference_steps": STEPS, "input_images": [noise(64, 64, 7)]}
    painter = DiffusersPainter(built("OmniGenPipeline"), PaintSettings(native=32, options=options))
    crops = [replace(crop((32, 32), 0.5, 0.5), seed=seed, prompt=prompt) for seed in range(2)]
    together = painter.paint(crops)
    for each, pixels in zip(crops, together, strict=True):
        assert np.array_equal(painter.paint([each])[0], pixels)
    assert not np.array_equal(*together)


def test_regions_whose_prompts_long_cat_rewrites_are_separate_calls() -> None:
    pipe, texts = ROWS["LongCatImagePipeline"].build(), list[Any]()
    pipe.rewire_prompt = lambda prompt, _device: (texts.append(prompt), prompt)[1]
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    painter = DiffusersPainter(pipe, PaintSettings(native=32, options=options))
    painter.paint([crop((32, 32), 0.5, 0.5)] * 3)
    assert [len(text) for text in texts] == [1, 1, 1]


def test_control_images_of_several_modes_steer_where_the_region_is() -> None:
    pipe, given, modes = built("StableDiffusionXLControlNetUnionPipeline"), noise(64, 64, 1), {"control_mode": [0, 2]}
    edges, other = noise(64, 64, 2), noise(64, 64, 3)

    def painted(*images: Image.Image, **options: Any) -> bytes:
        controls = {"control_image": list(images), **modes, **options}
        return mended(
            pipe, start_image=given, call={"control_image": None, "control_mode": None}, **controls
        ).image.tobytes()

    assert len({painted(edges, edges), painted(edges, other), painted(edges, other, control_mode=[1, 2])}) == 3
    without = mended(pipe, start_image=given, call={"control_image": None, "control_mode": None}).image
    assert without.tobytes() not in (painted(edges, other), given.tobytes())
    one = mended(pipe, start_image=given, call={"control_mode": 1}, control_image=edges).image
    assert one.tobytes() != without.tobytes()
