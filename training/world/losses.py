"""Losses and position embeddings that several recipes share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refiner.micro.world import SIZE
from refiner.training.world.labels import PART_NAMES

DETAIL = 2.0  # Weight of the detail-dependent part of the loss. The uniform part has weight 1.


def kind_loss(logits: Tensor, masks: Tensor, rows: Tensor, kinds: Tensor) -> Tensor:
    """Cross-entropy of the kind of flaw in each patch, with weight 0.05 for class 0 (no flaw).

    Args:
        logits: float (B, N, 1 + kinds).
        masks: masks of S flaws, float (S, H, W).
        rows: index of each flaw's image in the batch, int (S,).
        kinds: index of each flaw's kind in ``KIND_NAMES``, int (S,).
    """
    side = round(logits.shape[1] ** 0.5)
    shares = functional.adaptive_avg_pool2d(masks[:, None], side).flatten(1)
    target = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    for row, kind, share in zip(rows.tolist(), kinds.tolist(), shares, strict=True):
        target[row][share > 0.06] = kind + 1
    importance = torch.ones(logits.shape[-1], device=logits.device)
    importance[0] = 0.05
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), importance)


def part_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Binary cross-entropy of the parts that should be in each patch, divided by the number of such parts.

    ``logits`` is float (B, N, parts), ``parts`` int (B, 48, 48) as from ``part_map``.
    """
    side = round(logits.shape[1] ** 0.5)
    shown = functional.one_hot(parts, 1 + len(PART_NAMES)).permute(0, 3, 1, 2).float()
    truth = (functional.adaptive_avg_pool2d(shown, side) > 0.05).flatten(2).transpose(1, 2)[..., 1:].float()
    total = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return total / truth.sum().clamp(min=1)


def detail_weight(latents: Tensor) -> Tensor:
    """Weight of each latent cell, float (B, 1, H, W) with mean 1. It is large where adjacent cells differ.

    Letters and clock hands cover only a few cells; most of an image is flat and easy to learn.
    """
    mean, square = (
        functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) for x in (latents, latents**2)
    )
    spread = (square - mean**2).clamp(min=0).sqrt().mean(dim=1, keepdim=True)
    return (1 + DETAIL * spread / spread.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)) / (1 + DETAIL)


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Mean of 1 - Dice over the first axis, with the scale and offset of LISA and LEGION's code; scalar."""
    p, g = probability.flatten(1), truth.flatten(1)
    both, either = (p * g).sum(1) / 1000, (p.sum(1) + g.sum(1)) / 1000
    return (1 - (2 * both + 1e-6) / (either + 1e-6)).mean()


def flawed_loss(logits: Tensor, masks: Tensor, rows: Tensor) -> Tensor:
    """Binary cross-entropy and Dice of flawed pixels; logits (B, H, H). ``masks`` and ``rows`` as in ``kind_loss``."""
    truth = masks.new_zeros(len(logits), SIZE, SIZE).index_add(0, rows, masks).clamp(max=1)
    truth = functional.adaptive_avg_pool2d(truth[:, None], logits.shape[1])[:, 0]
    bce = functional.binary_cross_entropy_with_logits(logits, truth)
    return 4 * bce + dice_loss(logits.sigmoid().flatten()[None], truth.flatten()[None])


def sines(side: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine position embeddings, float (side * side, width)."""
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    rates = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    waves = [wave(axis.flatten()[:, None] * rates) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)
