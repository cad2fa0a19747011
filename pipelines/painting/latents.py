"""The layouts of latents: from images to the latents that a pipeline's denoising loop works on.

``encode`` returns latents (N, C, h, w), scaled as the pipeline's decoding expects them. ``pack`` brings them to the
layout of the loop. It only moves values, so that it also converts masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a family's latents are scaled and laid out."""

    encode: Callable[[DiffusionPipeline, torch.Tensor], torch.Tensor]
    """Encodes float (N, 3, H, W) in [-1, 1] to latents (N, C, h, w)."""
    pack: Callable[[DiffusionPipeline, torch.Tensor], torch.Tensor] = lambda _pipe, latents: latents
    """Converts latents (N, C, h, w) to the layout of the denoising loop."""
    scales_noise: bool = False
    """Whether ``prepare_latents`` multiplies the noise by the deviation of the scheduler's first step."""


def encoded(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Encode with an autoencoder of any class of diffusers; of a distribution, its mode is taken."""
    output = vae.encode(pixels)
    if hasattr(output, "latent_dist"):
        latents: torch.Tensor = output.latent_dist.mode()
        return latents
    return next(getattr(output, name) for name in ("latent", "latents") if hasattr(output, name))


def _scaled(pipe: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    return (encoded(pipe.vae, pixels) - (config.get("shift_factor") or 0)) * config.scaling_factor


def _standardised(pipe: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
    """Encode with a video autoencoder that has a mean and a deviation for each channel, as that of Qwen-Image."""
    latents = encoded(pipe.vae, pixels[:, :, None])[:, :, 0]
    mean, deviation = (
        latents.new_tensor(pipe.vae.config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) / deviation


def _normalised(pipe: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
    """Encode with the autoencoder of FLUX.2: its batch normalisation works on squares of 2 x 2 cells."""
    norm = pipe.vae.bn
    patches = _patched(pipe, encoded(pipe.vae, pixels))
    mean = norm.running_mean.view(1, -1, 1, 1).to(patches)
    deviation = (norm.running_var.view(1, -1, 1, 1) + pipe.vae.config.batch_norm_eps).sqrt().to(patches)
    return pipe._unpatchify_latents((patches - mean) / deviation)


def _in_squares(pipe: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Pack squares of 2 x 2 cells into tokens (N, h w / 4, 4 C), as FLUX.1 does."""
    packed: torch.Tensor = pipe._pack_latents(latents.contiguous(), *latents.shape)
    return packed


def _patched(pipe: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Move the cells of squares of 2 x 2 into channels, (N, 4 C, h / 2, w / 2), as FLUX.2 does."""
    patches: torch.Tensor = pipe._patchify_latents(latents.contiguous())
    return patches


def _in_patches(pipe: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Pack squares of 2 x 2 cells into tokens (N, h w / 4, 4 C), as FLUX.2 does."""
    packed: torch.Tensor = pipe._pack_latents(_patched(pipe, latents))
    return packed


PLAIN = Layout(encode=_scaled, scales_noise=True)
FLUX = Layout(encode=_scaled, pack=_in_squares)
FLUX_2 = Layout(encode=_normalised, pack=_in_patches)
FLUX_2_UNPACKED = Layout(encode=_normalised)
QWEN = Layout(encode=_standardised, pack=_in_squares)
