"""Heat maps of a classifier's logit: Grad-CAM for convolutional networks, relevance for transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2).

    Args:
        features: float (N, C, h, w), of the last convolutional layer.
        gradients: of the logit with respect to them, of the same shape.

    Returns:
        float (N, h, w), at least 0: the channels, weighted by their mean gradient, where they speak for the class.
    """
    return (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()


def relevance(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Relevance of the patches to the class token (Chefer et al., ICCV 2021, equations 5 and 6, self-attention).

    Args:
        attentions: float (N, heads, 1 + patches, 1 + patches) of each layer, the first one first.
        gradients: of the logit with respect to them, of the same shapes.

    Returns:
        float (N, patches), at least 0.
    """
    tokens = attentions[0].shape[-1]
    joined = torch.eye(tokens, device=attentions[0].device).expand(len(attentions[0]), -1, -1)
    for attention, gradient in zip(attentions, gradients, strict=True):
        joined = joined + (attention * gradient).float().relu().mean(dim=1) @ joined
    return joined[:, 0, 1:]
