"""Pipelines that cannot generate an image from a prompt are refused when they are wrapped, with the reason.

The classes themselves are tested, without their networks, where only their call decides.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers.pipelines import auto_pipeline  # noqa: E402
from support.tiny_parts import t5_encoder, t5_tokenizer  # noqa: E402
from support.tiny_pipelines import stable_diffusion, stable_diffusion_xl  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefinedPipeline  # noqa: E402
from refiner.pipelines.editing.editors import EDITORS  # noqa: E402
from refiner.pipelines.painting.families import check_inpaints, check_pipelines, takes  # noqa: E402
from refiner.pipelines.painting.refusals import refuse_image_to_image, refuse_other_media  # noqa: E402

VIDEOS = [
    "AllegroPipeline", "AnimateDiffPipeline", "CogVideoXFunControlPipeline", "CogVideoXPipeline",
    "HunyuanVideoPipeline", "LTXPipeline", "MochiPipeline", "StableVideoDiffusionPipeline", "TextToVideoZeroPipeline",
    "WanAnimatePipeline", "WanImageToVideoPipeline", "WanPipeline", "WanVACEPipeline",
]  # fmt: skip
SOUND = ["AudioLDM2Pipeline", "MusicLDMPipeline", "StableAudioPipeline"]
ENLARGERS = ["IFSuperResolutionPipeline", "StableDiffusionLatentUpscalePipeline", "StableDiffusionUpscalePipeline"]


def mapped(mapping: dict[str, type]) -> list[type]:
    return sorted({*mapping.values()}, key=lambda cls: cls.__name__)


IMAGE_TO_IMAGE = [
    cls
    for cls in mapped(auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING)
    if "strength" in takes(cls.__new__(cls)) and cls is not diffusers.StableDiffusionXLInpaintPipeline
]


# diffusers lists Helios too, which generates videos.
TEXT_TO_IMAGE = [cls for cls in mapped(auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING) if "Helios" not in cls.__name__]


def named(name: str) -> Any:
    """A pipeline of a class of diffusers without its parts."""
    cls = getattr(diffusers, name)
    return cls.__new__(cls)


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("role", [0, 1, 2])
def test_videos_are_refused_in_every_role(name: str, role: int) -> None:
    pipelines = [stable_diffusion(), None, None]
    pipelines[role] = named(name)
    with pytest.raises(ConfigError, match=rf"^{name} generates videos, .*: pass a text-to-image pipeline.*image="):
        check_pipelines(*pipelines)


@pytest.mark.parametrize("name", SOUND)
def test_sound_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} generates sound, .*: pass a text-to-image pipeline"):
        check_pipelines(named(name), None, None)


@pytest.mark.parametrize("name", ENLARGERS)
def test_upscalers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} enlarges a given image .*: pass a text-to-image pipeline"):
        check_pipelines(named(name), stable_diffusion(), None)


def test_depth_to_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^StableDiffusionDepth2ImgPipeline .* by its depth"):
        check_pipelines(named("StableDiffusionDepth2ImgPipeline"), None, None)


@pytest.mark.parametrize("cls", IMAGE_TO_IMAGE, ids=lambda cls: cls.__name__)
def test_image_to_image_is_refused_as_the_generator(cls: type) -> None:
    with pytest.raises(ConfigError, match=f"^{cls.__name__} changes a given image .* second_stage="):
        check_pipelines(cls.__new__(cls), None, None)


@pytest.mark.parametrize("cls", TEXT_TO_IMAGE, ids=lambda cls: cls.__name__)
def test_text_to_image_is_not_refused(cls: type) -> None:
    pipe = cls.__new__(cls)
    refuse_other_media(pipe, takes(pipe))
    refuse_image_to_image(pipe, takes(pipe))


def test_a_model_that_reads_an_image_in_its_unet_is_refused() -> None:
    """InstructPix2Pix has its image as an option, but more channels than latents."""
    pipe = named("StableDiffusionInstructPix2PixPipeline")
    parts = stable_diffusion(nine=True).components
    pipe.register_modules(unet=parts["unet"], vae=parts["vae"])
    with pytest.raises(ConfigError, match=r"^StableDiffusionInstructPix2PixPipeline changes a given image"):
        check_pipelines(pipe, None, None)


INPAINTING = {
    "QwenImageEditPipeline": "QwenImageEditInpaintPipeline",
    "QwenImageEditPlusPipeline": "QwenImageEditInpaintPipeline",
    "QwenImageLayeredPipeline": "QwenImageInpaintPipeline",
    "LongCatImageEditPipeline": "StableDiffusionXLInpaintPipeline",
}
"""Classes that edit images, and the class that is advised for inpainting."""


@pytest.mark.parametrize(("name", "advised"), INPAINTING.items())
def test_edit_models_are_refused_as_the_generator_with_what_repairs_instead(name: str, advised: str) -> None:
    told = "this one" if name in EDITORS else advised
    with pytest.raises(ConfigError, match=rf"^{name} edits a given image .*, and {told} as inpainter=\.$"):
        check_pipelines(named(name), named(advised), None)


@pytest.mark.parametrize(
    ("name", "advised"),
    [
        *INPAINTING.items(),
        ("GlmImagePipeline", "StableDiffusionXLInpaintPipeline"),
        ("Ideogram4Pipeline", "StableDiffusionXLInpaintPipeline"),
    ],
)
def test_what_cannot_inpaint_is_refused_with_a_class_that_can(name: str, advised: str) -> None:
    with pytest.raises(ConfigError, match=rf"got {name}: .*, such as {advised}, as inpainter=\.$"):
        check_inpaints(getattr(diffusers, name))
    check_inpaints(getattr(diffusers, advised))


@pytest.mark.parametrize("name", ["ModularPipeline", "FluxModularPipeline", "QwenImageEditModularPipeline"])
@pytest.mark.parametrize("role", [0, 1, 2])
def test_modular_pipelines_are_refused_in_every_role(name: str, role: int) -> None:
    pipelines = [stable_diffusion(), None, None]
    pipelines[role] = named(name)
    with pytest.raises(ConfigError, match=rf"^{name} is a modular pipeline.*DiffusionPipeline.from_pretrained"):
        check_pipelines(*pipelines)


def wan() -> diffusers.WanPipeline:
    from transformers import UMT5Config, UMT5EncoderModel

    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    encoder = t5_encoder(UMT5EncoderModel, UMT5Config)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.WanPipeline(
        tokenizer=t5_tokenizer(), text_encoder=encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


@pytest.mark.parametrize("options", [{}, {"inpainter": stable_diffusion, "native": 64}])
def test_a_whole_video_pipeline_is_refused_when_it_is_wrapped(options: dict[str, Any]) -> None:
    made = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(ConfigError, match="WanPipeline generates videos"):
        RefinedPipeline(wan(), detector=ScriptedDetector([]), **made)


def test_sdxl_image_to_image_inpaints_and_finishes_but_does_not_generate() -> None:
    refiner = stable_diffusion_xl(diffusers.StableDiffusionXLImg2ImgPipeline)
    with pytest.raises(ConfigError, match=r"changes a given image.*second_stage="):
        RefinedPipeline(refiner, detector=ScriptedDetector([]))
    RefinedPipeline(stable_diffusion_xl(), detector=ScriptedDetector([]), inpainter=refiner, second_stage=refiner)
