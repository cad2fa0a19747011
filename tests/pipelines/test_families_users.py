"""What users do with their pipelines before and after they wrap them, on tiny random weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from support.repairs import NOISE, PROMPT, STEPS, mended, pictures, refined, relenting, weights  # noqa: E402
from support.tiny_pipelines import (  # noqa: E402
    TINY,
    flux,
    pixart_sigma,
    sana,
    stable_diffusion,
    stable_diffusion_xl,
)

from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import denoiser_of  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402

pytestmark = NOISE
FILL = functools.partial(flux, diffusers.FluxFillPipeline, 3 * 16)
KONTEXT = functools.partial(flux, diffusers.FluxKontextInpaintPipeline)
SHORT = {"max_sequence_length": 48, "num_inference_steps": STEPS}


# A separate model for inpainting


@pytest.mark.parametrize(
    ("base", "inpainter", "call", "inpaint_call"),
    [
        pytest.param(
            stable_diffusion,
            functools.partial(stable_diffusion, diffusers.StableDiffusionInpaintPipeline, nine=True),
            {"guidance_scale": 1.0},
            {"num_inference_steps": 6},
            id="sd-by-nine-channels",
        ),
        pytest.param(sana, stable_diffusion, TINY["sana"].call, {"num_inference_steps": 6}, id="sana-by-sd"),
        pytest.param(flux, FILL, SHORT, SHORT | {"num_inference_steps": 6}, id="flux-by-fill"),
        pytest.param(flux, KONTEXT, SHORT, SHORT | {"num_inference_steps": 6}, id="flux-by-kontext"),
        pytest.param(
            stable_diffusion_xl,
            functools.partial(
                stable_diffusion_xl, diffusers.StableDiffusionXLImg2ImgPipeline, requires_aesthetics_score=True
            ),
            {},
            {"num_inference_steps": 6},
            id="sdxl-by-its-refiner",
        ),
    ],
)
def test_another_model_repaints_with_its_own_settings(base: Any, inpainter: Any, call: Any, inpaint_call: Any) -> None:
    own = inpainter()
    pipe = refined(base(), inpainter=own, call=call, inpaint_call=inpaint_call, native=32)
    before = weights(own)
    result = mended(pipe)
    assert weights(own) == before
    rows = 1 if isinstance(own, diffusers.FluxFillPipeline | diffusers.FluxKontextInpaintPipeline) else 2
    assert result.attempts[1].calls.denoiser_rows == 3 * rows  # 6 steps at half strength
    assert pictures(mended(pipe)) == pictures(result)
    alone = refined(pipe.pipe, call=call, native=32) if base is not sana else None
    if alone is not None:
        assert pictures(mended(alone))[1] != pictures(result)[1]


@pytest.mark.parametrize("build", [FILL, KONTEXT])
def test_a_batch_of_another_models_crops_equals_single_runs(build: Any) -> None:
    painter = DiffusersPainter(flux(), PaintSettings(native=32, inpaint_options=SHORT), inpainter=build())
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 48), dtype=bool)
    mask[:16, 8:24] = True
    crops = [
        Crop(
            image=Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)), mask=mask, prompt=PROMPT[:length],
            negative_prompt="", seed=length, strength=1.0,
        )
        for length in (5, 20, 30)
    ]  # fmt: skip
    together = painter.paint(crops)
    assert painter.spent().denoiser_rows == len(crops) * STEPS
    for crop, picture in zip(crops, together, strict=True):
        assert np.abs(picture - painter.paint([crop])[0]).max() <= 5e-5


def test_settings_of_place_reach_the_other_models_too_and_all_else_is_its_own() -> None:
    own = stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True)
    pipe = refined(stable_diffusion(), inpainter=own)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert isinstance(own.scheduler, diffusers.DDIMScheduler)
    seen: list[str] = []

    def note(inner: DiffusionPipeline, _step: int, _time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(f"{type(inner).__name__}/{type(inner.scheduler).__name__}")
        return tensors

    pipe(PROMPT, seed=0, callback_on_step_end=note)
    assert set(seen) == {
        "StableDiffusionPipeline/DPMSolverMultistepScheduler",
        "StableDiffusionInpaintPipeline/DDIMScheduler",
    }
    pipe.enable_attention_slicing()
    assert {type(module.processor).__name__ for module in own.unet.modules() if hasattr(module, "processor")} == {
        type(module.processor).__name__ for module in pipe.unet.modules() if hasattr(module, "processor")
    }
    pipe.set_progress_bar_config(disable=True, leave=False)
    assert own._progress_bar_config == pipe.pipe._progress_bar_config == {"disable": True, "leave": False}
    pipe.to(torch.float64)
    assert own.unet.dtype == pipe.unet.dtype == torch.float64
    pipe.to("meta")
    assert own.unet.device.type == pipe.unet.device.type == "meta"


def test_other_models_are_saved_beside_the_pipeline_and_loaded_again(tmp_path: Path) -> None:
    own = stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True)
    own.save_pretrained(tmp_path / "nine")
    pipe = refined(stable_diffusion(), inpainter=own, inpaint_call={"guidance_scale": 3.0})
    pipe.save_pretrained(tmp_path / "kept")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "kept")) is diffusers.StableDiffusionPipeline
    named = refined(stable_diffusion(), inpainter=str(tmp_path / "nine"), inpaint_call={"guidance_scale": 3.0})
    named.save_pretrained(tmp_path / "named")
    assert not (tmp_path / "named" / "inpainter").exists()
    expected = pictures(mended(pipe))
    for folder in ("kept", "named"):
        again = RefinedPipeline.from_pretrained(tmp_path / folder, detector=relenting())
        again.set_progress_bar_config(disable=True)
        assert again.inpaint_call_defaults == {"guidance_scale": 3.0}
        assert pictures(mended(again)) == expected


@pytest.mark.parametrize("call", [{}, {"denoising_end": 0.5}])
def test_sdxls_refiner_finishes_what_the_base_began(call: dict[str, Any]) -> None:
    second = stable_diffusion_xl(diffusers.StableDiffusionXLImg2ImgPipeline, requires_aesthetics_score=True)
    base = stable_diffusion_xl()
    pipe = refined(base, second_stage=second, call=call)
    result = mended(pipe)
    seed = torch.Generator().manual_seed(result.attempts[0].seed)
    common = {"prompt": PROMPT, "num_inference_steps": STEPS, "generator": seed}
    latents = base(**common, **call, output_type="latent").images
    rest = {"denoising_start": call["denoising_end"]} if call else {}
    plain = second(**common, image=latents, **rest).images[0]
    assert np.array_equal(np.asarray(plain), np.asarray(result.attempts[0].image))
    steps = STEPS if call else STEPS + 1  # image to image has a strength of 0.3
    assert result.attempts[0].calls.denoiser_rows == 2 * steps


def test_a_model_that_can_only_repaint_paints_too() -> None:
    base = stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True)
    assert mended(refined(base)).attempts[0].image.size == (64, 64)
    assert mended(refined(base), height=48, width=72).attempts[0].image.size == (72, 48)


# Errors at construction


@pytest.mark.parametrize(
    ("build", "options", "said"),
    [
        (lambda: stable_diffusion(nine=True), {}, "9.*inpainter="),
        (lambda: DiffusionPipeline(), {}, "text-to-image.*DiffusionPipeline"),
        (lambda: stranger(), {}, "Stranger.*inpainter="),
        (stable_diffusion, {"inpainter": lambda: stranger()}, "Stranger.*inpainter="),
        (stable_diffusion, {"inpainter": lambda: stable_diffusion(nine=True)}, "9.*inpainter="),
        (stable_diffusion_xl, {"second_stage": stable_diffusion}, "second stage.*StableDiffusionPipeline"),
    ],
)
def test_what_cannot_work_says_so_at_construction(build: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refined(build(), **{name: make() for name, make in options.items()})


@pytest.mark.parametrize("part", ["vae", "unet", "scheduler"])
def test_a_partial_pipeline_may_be_wrapped_and_says_what_is_missing_when_it_is_to_refine(part: str) -> None:
    pipe = refined(without(stable_diffusion(), part))
    with pytest.raises(ConfigError, match="StableDiffusionPipeline was loaded without its"):
        pipe(PROMPT)


def stranger() -> DiffusionPipeline:
    """A text-to-image pipeline of an unknown family."""

    class Stranger(DiffusionPipeline):
        def __init__(self, vae: Any, tokenizer: Any, unet: Any, scheduler: Any, inner: Any = None) -> None:
            super().__init__()
            self.register_modules(vae=vae, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
            self.vae_scale_factor = 4
            self.base = stable_diffusion()

        def __call__(self, prompt: str, generator: torch.Generator, output_type: str, **options: Any) -> Any:
            return self.base(prompt, generator=generator, output_type=output_type, **options)

    base = stable_diffusion()
    pipe = Stranger(base.vae, base.tokenizer, base.unet, base.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def without(pipe: DiffusionPipeline, part: str) -> DiffusionPipeline:
    setattr(pipe, part, None)
    return pipe


def test_any_generator_will_do_where_another_model_repaints() -> None:
    mended(refined(stranger(), inpainter=stable_diffusion()))


# Pipelines that users have changed


def test_latents_are_for_generating_alone() -> None:
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 16, 16)
    pipes = [refined(stable_diffusion(), call={"latents": each}) for each in (latents, -latents)]
    assert len({pictures(mended(pipe))[0] for pipe in pipes}) == 2
    given = Image.new("RGB", (64, 64), "red")
    assert len({pipe(PROMPT, image=given, seed=1).images[0].tobytes() for pipe in pipes}) == 1


def test_a_subclass_that_hands_on_its_arguments_keeps_its_family() -> None:
    class Mine(diffusers.PixArtSigmaPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    base = pixart_sigma()
    mine = Mine(**base.components)
    mine.set_progress_bar_config(disable=True)
    call = TINY["pixart-sigma"].call
    assert pictures(mended(refined(mine, call=call))) == pictures(mended(refined(base, call=call)))


def test_ip_adapter_reaches_generating_and_repainting() -> None:
    base = stable_diffusion()
    plain = pictures(mended(refined(base)))
    base.unet._load_ip_adapter_weights([ip_adapter(base.unet)])
    torch.manual_seed(1)
    embeds = [[torch.randn(2, 1, 32)] for _ in range(2)]
    pipe = refined(base)
    one, other = (pictures(mended(pipe, ip_adapter_image_embeds=each)) for each in embeds)
    assert len({plain[0], one[0], other[0]}) == 3
    given = Image.new("RGB", (64, 64), "red")
    repainted = [pipe(PROMPT, image=given, seed=1, ip_adapter_image_embeds=each).images[0].tobytes() for each in embeds]
    assert repainted[0] != repainted[1]


def ip_adapter(model: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of an IP-Adapter for image embeddings of 32 numbers."""
    torch.manual_seed(0)
    width = model.config.cross_attention_dim
    weights: dict[str, torch.Tensor] = {}
    numbers = iter(range(1, 1000, 2))
    for name in model.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        side = model.config.block_out_channels[-1]
        key = next(numbers)
        weights |= {f"{key}.to_{part}_ip.weight": torch.randn(side, width) * 0.3 for part in "kv"}
    projection = {"proj.weight": torch.randn(4 * width, 32), "proj.bias": torch.zeros(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return {"image_proj": projection | norm, "ip_adapter": weights}


def test_lora_loaded_on_the_wrapper_reaches_generating_and_repainting(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    teacher = stable_diffusion()
    teacher.unet.add_adapter(
        peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False), adapter_name="mine"
    )
    layers = {name: value for name, value in teacher.unet.state_dict().items() if "lora" in name}
    state = {name.replace(".mine", ""): value * 5 for name, value in layers.items()}
    teacher.save_lora_weights(tmp_path, unet_lora_layers=state)
    pipe = refined(stable_diffusion())
    plain = pictures(mended(pipe))
    pipe.load_lora_weights(tmp_path, adapter_name="mine")
    given = Image.new("RGB", (64, 64), "red")
    with_lora, repainted = pictures(mended(pipe)), pipe(PROMPT, image=given, seed=1).images[0].tobytes()
    assert with_lora[0] != plain[0]
    pipe.unload_lora_weights()
    assert pictures(mended(pipe)) == plain
    assert pipe(PROMPT, image=given, seed=1).images[0].tobytes() != repainted


def test_textual_inversion_loaded_on_the_wrapper_reaches_generating_and_repainting() -> None:
    pipe = refined(stable_diffusion())
    plain, word = pictures(mended(pipe)), "<mine>"
    torch.manual_seed(0)
    pipe.load_textual_inversion({word: torch.randn(2, 32) * 3}, token=word)
    assert pictures(mended(pipe)) == plain
    given = Image.new("RGB", (64, 64), "red")
    spoken = [pipe(text, image=given, seed=1).images[0].tobytes() for text in (PROMPT, f"{PROMPT} {word}")]
    assert spoken[0] != spoken[1]


# Where and how pipelines run


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("way", ["torch.compile", "Module.compile"])
def test_a_compiled_denoiser_paints_the_same_and_its_rows_are_counted(name: str, way: str) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=tiny.native)
    plain = mended(pipe)
    denoiser = denoiser_of(pipe.pipe)
    if way == "torch.compile":
        place = "unet" if denoiser is pipe.components.get("unet") else "transformer"
        setattr(pipe, place, torch.compile(denoiser, backend="eager"))
    else:
        denoiser.compile(backend="eager")
    result = mended(pipe)
    assert pictures(result) == pictures(plain)
    rows = [[attempt.calls.denoiser_rows for attempt in run.attempts] for run in (plain, result)]
    assert rows[0] == rows[1]
    assert 0 not in rows[1]
    assert (denoiser_of(pipe.pipe) is denoiser) == (way == "Module.compile")
    assert (denoiser._compiled_call_impl is not None) == (way == "Module.compile")


@pytest.mark.parametrize("name", TINY)
def test_to_moves_every_network(name: str) -> None:
    pipe = refined(TINY[name].build())
    assert pipe.to("meta") is pipe
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {weights.device.type for network in networks for weights in network.parameters()} == {"meta"}
