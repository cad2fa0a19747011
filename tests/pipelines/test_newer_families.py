"""Newer text-to-image pipelines inpaint by their own call: their latents are encoded and packed as they expect."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from support.repairs import NOISE, PROMPT, STEPS  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.pipelines.painting.borrowing import before_passes  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import denoiser_of  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings  # noqa: E402
from refiner.protocols import PaintJob  # noqa: E402

pytestmark = NOISE
PASSES = {
    "Flux2Pipeline": 1, "FluxKontextPipeline": 1, "HiDreamImagePipeline": 2, "HunyuanImagePipeline": 2,
    "OvisImagePipeline": 2, "Krea2Pipeline": 2, "LongCatImagePipeline": 1, "OmniGenPipeline": 2,
    "BriaFibo2Pipeline": 2,
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
        latents = vae.encode(pixels[:, :, None] if row == "Krea2Pipeline" else pixels).latent_dist.mode()
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
