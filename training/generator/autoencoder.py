"""The micro world's autoencoder: diffusers' ``AutoencoderKL``. Latents have four channels and a quarter of the side.

The loss is L1 on pixels and on their horizontal and vertical differences, plus a small KL term. Pixels near edges have
more weight, because the small parts consist of edges. The decoder is trained on sampled latents, so that it tolerates
small errors of a generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.world.scenes import draw_batch, to_tensor


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(LoopSettings):
    """Settings of the autoencoder's training. The defaults made the bundled weights."""

    steps: int = 2800
    batch: int = 8
    learning_rate: float = 1.2e-3
    warmup: int = 200
    ema: float = 0.999
    gradient_weight: float = 0.7  # weight of the L1 on differences of adjacent pixels
    edge_weight: float = 3.0  # extra weight of a pixel on a strong edge; a pixel on a flat area has weight 1
    kl_weight: float = 3e-4  # weight of the mean KL per latent value, in nats
    seed: int = 11


def build_autoencoder() -> AutoencoderKL:
    """An ``AutoencoderKL`` with random weights for 96 x 96 RGB images in [-1, 1]. Its latents are (B, 4, 24, 24)."""
    channels = (32, 64, 64)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=96,
        mid_block_add_attention=False,
    )


def _differences(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels[..., :, 1:] - pixels[..., :, :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(decoded: Tensor, pixels: Tensor, recipe: AutoencoderSettings) -> Tensor:
    """Edge-weighted L1 on pixels, plus L1 on differences. Both tensors are float (B, 3, H, W) in [-1, 1]."""
    dx, dy = _differences(pixels)
    edges = F.pad(dx.abs().amax(1, keepdim=True), (0, 1)) + F.pad(dy.abs().amax(1, keepdim=True), (0, 0, 0, 1))
    weights = 1 + recipe.edge_weight * F.max_pool2d(edges, 3, 1, 1).clamp(max=1)
    loss = (weights * (decoded - pixels).abs()).mean()
    for ours, theirs in zip(_differences(decoded), (dx, dy), strict=True):
        loss = loss + recipe.gradient_weight * (ours - theirs).abs().mean()
    return loss


def autoencoder_loss(
    model: AutoencoderKL, pixels: Tensor, recipe: AutoencoderSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss on images, float (B, 3, 96, 96) in [-1, 1], and the values to log."""
    posterior = model.encode(pixels).latent_dist
    decoded = model.decode(posterior.sample()).sample.float()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = reconstruction_loss(decoded, pixels, recipe) + recipe.kl_weight * kl
    return loss, {"l1": (decoded - pixels).abs().mean(), "kl": kl}


@torch.no_grad()
def latent_scale(model: AutoencoderKL, pixels: Tensor) -> float:
    """The factor that scales the latents of these images to unit variance (``scaling_factor`` in diffusers)."""
    return float(1 / model.encode(pixels).latent_dist.mean.std())


def train_autoencoder(recipe: AutoencoderSettings, run: Run) -> AutoencoderKL:
    """Train the autoencoder, or resume from ``autoencoder.pt`` in the run's folder."""
    torch.manual_seed(recipe.seed)
    model = build_autoencoder()

    def draw(part: Draw) -> Tensor:
        return to_tensor(draw_batch(np.random.default_rng([recipe.seed, *part.key]), recipe.batch)[0])

    fit(
        model,
        draw,
        lambda pixels: autoencoder_loss(model, pixels, recipe),
        fit_settings(recipe, dtype="bfloat16"),
        run,
        "autoencoder",
    )
    model.cpu()
    sample = to_tensor(draw_batch(np.random.default_rng([recipe.seed, -1 % 2**31]), 256)[0])
    model.register_to_config(scaling_factor=latent_scale(model, sample))
    return model
