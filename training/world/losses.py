"""Losses that several recipes of the micro world share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refiner.training.world.labels import PART_NAMES

DETAIL = 2.0
"""Weight of the share of the loss that goes by detail, against one that is the same everywhere."""


def kind_loss(logits: Tensor, masks: Tensor, rows: Tensor, kinds: Tensor) -> Tensor:
    """Kind of flaw in each patch: (B, N, 1 + kinds), 0 for none, which counts a twentieth.

    ``masks`` float (S, H, W), ``rows`` and ``kinds`` int (S,) are those of S flaws, as a batch has them.
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
    """Which parts should be in each patch: (B, N, parts); mean over the parts that are there."""
    side = round(logits.shape[1] ** 0.5)
    shown = functional.one_hot(parts, 1 + len(PART_NAMES)).permute(0, 3, 1, 2).float()
    truth = (functional.adaptive_avg_pool2d(shown, side) > 0.05).flatten(2).transpose(1, 2)[..., 1:].float()
    total = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return total / truth.sum().clamp(min=1)


def detail_weight(latents: Tensor) -> Tensor:
    """How much each cell counts, float (B, 1, H, W), 1 on the average: most where neighbouring cells differ.

    Letters and hands of clocks are a few cells in a picture of flat areas, which are soon learnt.
    """
    mean, square = (
        functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) for x in (latents, latents**2)
    )
    spread = (square - mean**2).clamp(min=0).sqrt().mean(dim=1, keepdim=True)
    return (1 + DETAIL * spread / spread.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)) / (1 + DETAIL)


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Mean over the first axis of 1 - Dice, with LISA's scale and offset as LEGION's code has them; scalar."""
    p, g = probability.flatten(1), truth.flatten(1)
    both, either = (p * g).sum(1) / 1000, (p.sum(1) + g.sum(1)) / 1000
    return (1 - (2 * both + 1e-6) / (either + 1e-6)).mean()
