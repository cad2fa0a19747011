"""LEGION's losses (papers/legion.md, equation 4), and losses that replace the pretraining of the towers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.detectors.legion.modeling import LegionModel
from refiner.micro.world import SIZE
from refiner.training.legion.data import LegionBatch
from refiner.training.legion.model import Architecture
from refiner.training.world.labels import KIND_NAMES, LABEL_SIDE, PART_NAMES
from refiner.training.world.losses import dice_loss, flawed_loss, kind_loss, part_loss


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the losses in stage 1. The first three are those of equation 4, with the paper's values."""

    ce: float = 1.0
    bce: float = 0.4
    dice: float = 0.2
    flaws: float = 0.0  # predict the kind of flaw in each CLIP patch, and the flawed pixels from SAM's embedding
    parts: float = 0.0  # predict the part that should be in each CLIP patch, and in each pixel from SAM's embedding
    count: float = 0.0
    """Extra weight of the answer's word for the number of flaws, because the rest of the answer depends on it."""
    verdict: float = 0.0  # predict real or fake from the CLS feature, already in stage 1


class Trainee(nn.Module):
    """The model and the heads that only training uses."""

    def __init__(self, model: LegionModel, shape: Architecture) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(shape.clip_width, 1 + len(KIND_NAMES) + len(PART_NAMES))
        zoom = LABEL_SIDE * shape.sam_patch // SIZE
        channels = (2 + len(PART_NAMES)) * zoom**2
        self.pixel_head = nn.Sequential(nn.Conv2d(shape.mask_width, channels, 1), nn.PixelShuffle(zoom))
        nn.init.constant_(self.patch_head.bias[1 + len(KIND_NAMES) :], -4.0)  # parts are rare in a patch

    def losses(self, batch: LegionBatch, weights: LossWeights) -> dict[str, Tensor]:
        """The weighted losses of stage 1, by name."""
        output = self.model(batch.ids, batch.pixels, batch.pixels)
        asked = batch.labels[:, 1:] != -100
        logits = output.logits[:, :-1][asked].float()
        losses = {"ce": weights.ce * functional.cross_entropy(logits, batch.labels[:, 1:][asked])}
        if weights.count:
            place = int(batch.place)
            said = output.logits[:, place - 1].float()
            losses["count"] = weights.count * functional.cross_entropy(said, batch.labels[:, place])
        if len(batch.rows):
            masks = _to_picture(output.mask_logits)
            losses["bce"] = weights.bce * functional.binary_cross_entropy_with_logits(masks, batch.masks)
            losses["dice"] = weights.dice * dice_loss(masks.sigmoid(), batch.masks)
        return losses | self.dense_losses(output.vision, output.sam, batch, weights)

    def tower_losses(self, batch: LegionBatch, weights: LossWeights) -> dict[str, Tensor]:
        """The weighted losses of stage 0, by name."""
        vision, ground = self.model.encode_image(batch.pixels), self.model.encode_ground(batch.pixels)
        return self.dense_losses(vision, ground, batch, weights)

    def dense_losses(
        self, vision: Tensor, ground: Tensor, batch: LegionBatch, weights: LossWeights
    ) -> dict[str, Tensor]:
        """The weighted losses on the features of both towers, by name."""
        kinds, parts = self.patch_head(vision[:, 1:]).float().split([1 + len(KIND_NAMES), len(PART_NAMES)], dim=2)
        flawed, seen = self.pixel_head(ground).float().split([1, 1 + len(PART_NAMES)], dim=1)
        flaws = kind_loss(kinds, batch.masks, batch.rows, batch.kinds)
        flaws = flaws + flawed_loss(_to_picture(flawed[:, 0]), batch.masks, batch.rows)
        losses = {
            "flaws": weights.flaws * flaws,
            "parts": weights.parts * (part_loss(parts, batch.parts) + _seen_loss(seen, batch.parts)),
        }
        verdict = self.model.verdict(vision)
        if verdict is not None and weights.verdict:
            losses["verdict"] = weights.verdict * functional.cross_entropy(verdict.float(), batch.real)
        return losses


def _seen_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross-entropy of the part that should be at each pixel; logits (B, 1 + parts, 48, 48). The background has weight
    0.2."""
    importance = torch.ones(logits.shape[1], device=logits.device)
    importance[0] = 0.2
    return functional.cross_entropy(logits, parts, importance)


def _to_picture(logits: Tensor) -> Tensor:
    return functional.interpolate(logits[:, None].float(), (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
