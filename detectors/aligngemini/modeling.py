"""The network of the pixel expert: DINOv2 and one linear layer, and the relevance of each of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from refiner.detectors.aligngemini.config import ExpertConfig


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
        return logits.detach().float(), maps.unflatten(1, (self.cells, self.cells))


def relevance(attentions: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """The relevance of patches for the CLS token, by the rule for self-attention of Chefer et al. (ICCV 2021).

    Args:
        attentions: of each layer, float (N, heads, tokens, tokens); token 0 is CLS.
        slopes: the derivatives of the logits with respect to them.

    Returns:
        Float32 (N, tokens - 1) in [0, 1], divided by the highest value of each image.
    """
    count = attentions[0].shape[-1]
    total = torch.eye(count, device=attentions[0].device).expand(len(attentions[0]), count, count)
    for attention, slope in zip(attentions, slopes, strict=True):
        mean = (attention.float() * slope.float()).clamp(min=0).mean(1)
        total = total + mean @ total
    patches = total[:, 0, 1:]
    return patches / patches.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
