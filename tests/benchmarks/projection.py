"""Estimated time outside the networks for images of 1024 x 1024, as a share of a call with SDXL or FLUX.1.

The seconds outside are measured on one core: one image in 30 steps and one round of four regions, by a Stable Diffusion
pipeline with latents of SDXL's size and almost no weights. ``diffusers`` is their part inside the calls of diffusers
(schedulers, pre- and postprocessing), which the bare pipeline needs too; the digests of the latent cache there are not
included. The arithmetic of the networks is counted from their published shapes, without weights: the denoiser's rows
and the autoencoder's images. ``share`` is the time outside as a share of a call, on a device with a given speed on
these networks (TFLOP per second). ``own`` is the share without the part of diffusers. ``target_up_to`` is the highest
speed of a device at which the share is at most 2 %. With ``--device`` the denoisers run there at their real size, with
random weights, and the share is that of the device.

Run with ``make bench`` or ``python tests/benchmarks/projection.py [--calls N] [--device cuda] [--json]``.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from refiner import RefineConfig, RefinedPipeline
from refiner.detectors.scripted import ScriptedDetector
from refiner.pipelines.painting import caches
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

sys.path.insert(0, str(Path(__file__).parent))
from overhead import Clock, networks_of

SIDE = 1024
BOXES = ((96, 96, 288, 288), (640, 128, 768, 384), (160, 640, 480, 864), (704, 672, 832, 800))
RATES = (50, 100, 200, 400)
TARGET = 0.02


@dataclass(frozen=True)
class Model:
    """A denoiser of published shape: how to build it, one row of its input, and rows per step."""

    build: Callable[[], torch.nn.Module]
    row: Callable[[], dict[str, Any]]
    rows_a_step: int
    latent_channels: int


def sdxl() -> torch.nn.Module:
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sdxl_row() -> dict[str, Any]:
    return {
        "sample": torch.randn(1, 4, SIDE // 8, SIDE // 8),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.randn(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 1280), "time_ids": torch.ones(1, 6)},
    }


def flux_row() -> dict[str, Any]:
    patches, words = (SIDE // 16) ** 2, 512
    return {
        "hidden_states": torch.randn(1, patches, 64),
        "encoder_hidden_states": torch.randn(1, words, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.ones(1),
        "img_ids": torch.ones(patches, 3),
        "txt_ids": torch.ones(words, 3),
        "guidance": torch.ones(1),
    }


MODELS = {
    "sdxl": Model(sdxl, sdxl_row, rows_a_step=2, latent_channels=4),
    "flux": Model(lambda: FluxTransformer2DModel(guidance_embeds=True), flux_row, rows_a_step=1, latent_channels=16),
}


def measured(calls: int) -> dict[str, Any]:
    """Seconds outside the networks, and the rows that pass through them in a call."""
    pipe = _tiny()
    severities = itertools.count()

    def flaws(_image: Image.Image) -> Analysis:
        severity = 0.8 ** (next(severities) % 2)
        regions = tuple(
            Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=severity) for box in BOXES
        )
        return Analysis(size=Size(SIDE, SIDE), regions=regions, detector="scripted")

    refined = RefinedPipeline(
        pipe,
        detector=ScriptedDetector(flaws),
        config=RefineConfig(max_rounds=1),
        call={"num_inference_steps": 30},
        native=SIDE,
    )

    def call() -> None:
        result = refined.stream("a hand", seed=0).result
        assert [attempt.accepted for attempt in result.attempts] == [True, True]

    clock = Clock(networks_of(pipe), [call])
    inside: list[float] = []
    with _timed(StableDiffusionPipeline, clock, inside), _timed(StableDiffusionInpaintPipeline, clock, inside):
        outside = [clock.time(call)["outside"] for _ in range(calls)]
    parts = {"denoiser": "denoiser", "encoder": "autoencoder.encoder", "decoder": "autoencoder.decoder"}
    rows = {kind: sum(n for name, n in clock.rows.items() if name.startswith(part)) for kind, part in parts.items()}
    return {
        "calls": calls,
        "outside_seconds": {"median": round(float(np.median(outside)), 3), "least": round(min(outside), 3)},
        "diffusers_seconds": {"median": round(float(np.median(np.reshape(inside, (calls, -1)).sum(axis=1))), 3)},
        "rows": rows,
    }


@contextmanager
def _timed(cls: type, clock: Clock, inside: list[float]) -> Iterator[None]:
    """Record the seconds that each call of a pipeline spends outside the networks."""
    inner, digest, ours = cls.__call__, caches._digest, [0.0]

    def digested(picture: torch.Tensor) -> bytes:
        began = time.process_time()
        found = digest(picture)
        ours[0] += time.process_time() - began
        return found

    def timed(self: Any, *args: Any, **options: Any) -> Any:
        began, others = time.process_time(), sum(clock.seconds.values()) + ours[0]
        output = inner(self, *args, **options)
        inside.append(time.process_time() - began - sum(clock.seconds.values()) - ours[0] + others)
        return output

    timed.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]  # refiner asks what a call takes
    with mock.patch.object(cls, "__call__", timed), mock.patch.object(caches, "_digest", digested):
        yield


def _tiny() -> StableDiffusionPipeline:
    """A pipeline with latents of SDXL's size and almost no weights; tokenizer and text encoder are the bundled ones."""
    bundled = RefinedPipeline.from_pretrained("micro").pipe
    torch.manual_seed(0)
    vae = _autoencoder((4, 4, 4, 4), layers=1, groups=4)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(4, 4),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=bundled.text_encoder.config.hidden_size,
    )
    parts = {**bundled.components, "vae": vae.eval(), "unet": unet.eval()}
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _autoencoder(channels: tuple[int, ...], *, layers: int = 2, groups: int = 32, latent: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=latent,
        sample_size=SIDE,
    )


def operations(model: Model) -> dict[str, float]:
    """TFLOP of one row of the denoiser, and of encoding and decoding one image."""
    with torch.device("meta"), torch.no_grad():
        denoiser, row = model.build(), model.row()
        vae = _autoencoder((128, 256, 512, 512), latent=model.latent_channels)
        latents = torch.empty(1, model.latent_channels, SIDE // 8, SIDE // 8)
        return {
            "denoiser": _teraflop(lambda: denoiser(**row)),
            "encoder": _teraflop(lambda: vae.encode(torch.empty(1, 3, SIDE, SIDE))),
            "decoder": _teraflop(lambda: vae.decode(latents)),
        }


def _teraflop(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def seconds_a_row(model: Model, device: str, repeats: int = 5) -> float:
    """Median seconds of one row of the denoiser in bfloat16, with random weights, after one warm-up call."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            denoiser, row = model.build().eval(), model.row()
    finally:
        torch.set_default_dtype(before)
    taken = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            began = time.perf_counter()
            output = denoiser(**row, return_dict=False)[0]
            float(output.sum())  # waits for the device
            taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def projected(model: Model, found: dict[str, Any], device: str | None) -> dict[str, Any]:
    """The estimated share of a call's time outside the networks."""
    rows = dict(found["rows"], denoiser=found["rows"]["denoiser"] * model.rows_a_step // 2)
    each, outside = operations(model), found["outside_seconds"]["median"]
    own = outside - found["diffusers_seconds"]["median"]
    work = sum(rows[kind] * each[kind] for kind in rows)
    document = {
        "rows": rows,
        "tflop": {kind: round(value, 2) for kind, value in each.items()},
        "tflop_a_call": round(work),
        "share": {f"{rate} TFLOP/s": round(outside / (outside + work / rate), 4) for rate in RATES},
        "own": {f"{rate} TFLOP/s": round(own / (outside + work / rate), 4) for rate in RATES},
        "target_up_to": round(work * TARGET / (1 - TARGET) / outside),
    }
    if device:
        seconds = seconds_a_row(model, device)
        document["device"] = {
            "seconds_a_row": seconds,
            "tflop_a_second": round(each["denoiser"] / seconds, 2),
            "share_without_autoencoder": round(outside / (outside + rows["denoiser"] * seconds), 5),
        }
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", help="device that runs the denoisers at their real size, such as cuda")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"outside": measured(options.calls)}
    for name in options.models:
        document[name] = projected(MODELS[name], document["outside"], options.device)
    print(json.dumps(document, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
