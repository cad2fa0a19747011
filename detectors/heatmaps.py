"""Heat maps of a classifier's logit, from what its network saw and the gradients of the logit with respect to it.

For transformers: gradient attention rollout (X-AIGD's section on attention alignment, after vit-explain), which can be
differentiated, and the relevance of Chefer et al. (ICCV 2021, "Generic Attention-model Explainability", equations 5 and
6). For convolutional networks: Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST = 1e-8  # values of a map that are all below this stay about zero


def rollout(attention: Sequence[Tensor], gradients: Sequence[Tensor], *, prefix: int = 1, cls: bool = True) -> Tensor:
    """Gradient attention rollout over some layers, from the first of them to the last.

    A layer's map is the mean over heads of attention times gradient, without negative values. With the identity added,
    its rows are scaled to 1. The product of all layers is read in the row of the class token; without one, in the
    mean row of the patches, without the diagonal.

    Args:
        attention: of each layer, float (N, heads, tokens, tokens).
        gradients: of the logit with respect to them, of the same shapes.
        prefix: number of tokens before the patches.
        cls: whether the logit reads the class token, which is the first.

    Returns:
        (N, patches), at least 0, in float32 or float64; small where a layer adds little to the identity.
    """
    joined = _identity(attention[0])
    for weights, gradient in zip(attention, gradients, strict=True):
        step = _whole(weights * gradient).mean(dim=1).clamp(min=0) + _identity(weights)
        joined = step / step.sum(dim=-1, keepdim=True) @ joined
    return _row(joined, prefix, cls)


def relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor], *, prefix: int = 1, cls: bool = True) -> Tensor:
    """Relevance of Chefer et al.; arguments and result as for ``rollout``.

    Negative products are removed before the mean over heads, and each layer's map is added without scaling its rows.
    """
    joined = _identity(attention[0])
    for weights, gradient in zip(attention, gradients, strict=True):
        joined = joined + _whole(weights * gradient).clamp(min=0).mean(dim=1) @ joined
    return _row(joined, prefix, cls)


def gradcam(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM: features, float (N, C, h, w), weighted by their mean gradients, without negative values; (N, h, w)."""
    return (features * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).clamp(min=0)


def scaled(maps: Tensor) -> Tensor:
    """Maps of at least 0, float (N, h, w), each divided by its largest value; a map of zeros stays as it is."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=_LEAST)


def _whole(products: Tensor) -> Tensor:
    """Half precision as float32, in which sums of many small products are exact enough."""
    return products.to(torch.promote_types(products.dtype, torch.float32))


def _identity(like: Tensor) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.eye(like.shape[-1], dtype=dtype, device=like.device).expand(len(like), -1, -1)


def _row(joined: Tensor, prefix: int, cls: bool) -> Tensor:
    if cls:
        return joined[:, 0, prefix:]
    others = joined * (1 - _identity(joined))  # what a patch keeps of itself says nothing
    return others[:, prefix:, prefix:].mean(dim=1)
