"""The network of the pixel expert: DINOv2 and one linear layer, and the relevance of each of its patches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from refiner.detectors.aligngemini.config import ExpertConfig
from refiner.detectors.heatmaps import relevance, scaled


class Judged(NamedTuple):
    """What the network says about N images."""

    features: Tensor
    """Float (N, width): the CLS token after the last norm, as in DDA."""
    logits: Tensor
    """Float (N,); above 0 for "generated"."""


class Expert(nn.Module):
    """DINOv2 (Oquab et al. 2023) with a linear layer on its CLS token.

    DDA trains adapters on the backbone. Here they are merged into its weights, so that no code of adapters is needed.
    """

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.config = config
        settings: dict[str, Any] = {**config.backbone, "image_size": config.side}
        self.backbone: Any = Dinov2Model(Dinov2Config(**settings))
        self.head = nn.Linear(self.backbone.config.hidden_size, 1)

    @property
    def cells(self) -> int:
        """Patches along each side."""
        return int(self.config.side // self.backbone.config.patch_size)

    def forward(self, pixels: Tensor) -> Judged:
        """Judge images, float (N, 3, side, side), normalised by mean and standard deviation."""
        features = self.backbone(pixels).pooler_output
        return Judged(features, self.head(features)[:, 0])

    def explained(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images, and say which patches speak for "generated".

        Args:
            pixels: as for ``forward``.

        Returns:
            The logits, float32 (N,), and the relevance of each patch, float32 (N, cells, cells) in [0, 1]; the highest
            value of an image is 1, unless no patch is relevant.
        """
        self.backbone.set_attn_implementation("eager")  # other kinds do not return their attention
        with torch.inference_mode(False), torch.enable_grad():
            found = self.backbone(pixels.clone().requires_grad_(), output_attentions=True)
            logits = self.head(found.pooler_output)[:, 0]
            slopes = torch.autograd.grad(logits.sum(), found.attentions)
        maps = relevance([attention.detach() for attention in found.attentions], slopes)
        return logits.detach().float(), scaled(maps.unflatten(1, (self.cells, self.cells)))
