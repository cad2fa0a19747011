"""Heat maps of the class "generated": where a verdict comes from.

For transformers: gradient attention rollout (X-AIGD's section on attention alignment, after vit-explain), which can be
differentiated, and the relevance of Chefer et al. (ICCV 2021, "Generic Attention-model Explainability", equations 5 and
6). For convolutional networks: Grad-CAM (Selvaraju et al., ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from refiner.detectors.xaigd.config import XaigdConfig
from refiner.detectors.xaigd.modeling import XaigdOutput
from refiner.errors import ConfigError

_LEAST = 1e-8  # values of a map that are all below this stay about zero


def rollout(attention: Sequence[Tensor], gradients: Sequence[Tensor], *, prefix: int, cls: bool) -> Tensor:
    """Gradient attention rollout over some layers, from the first of them to the last.

    A layer's map is the mean over heads of attention times gradient, without negative values. With the identity added,
    its rows are scaled to 1. The product of all layers is read in the row of the class token; without one, in the
    mean row of the patches, without the diagonal.

    Args:
        attention: of each layer, float (B, heads, T, T).
        gradients: of the logit with respect to them, of the same shapes.
        prefix: number of tokens before the patches.
        cls: whether the verdict reads the class token, which is the first.

    Returns:
        float (B, patches), at least 0; small where a layer adds little to the identity.
    """
    joined = _identity(attention[0])
    for weights, gradient in zip(attention, gradients, strict=True):
        step = (weights * gradient).mean(dim=1).clamp(min=0) + _identity(weights)
        joined = step / step.sum(dim=-1, keepdim=True) @ joined
    return _row(joined, prefix, cls)


def relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor], *, prefix: int, cls: bool) -> Tensor:
    """Relevance of Chefer et al.; arguments and result as for ``rollout``.

    Negative products are removed before the mean over heads, and each layer's map is added without scaling its rows.
    """
    joined = _identity(attention[0])
    for weights, gradient in zip(attention, gradients, strict=True):
        joined = joined + (weights * gradient).clamp(min=0).mean(dim=1) @ joined
    return _row(joined, prefix, cls)


def gradcam(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM: features, float (B, C, h, w), weighted by their mean gradients, without negative values; (B, h, w)."""
    return (features * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).clamp(min=0)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _row(joined: Tensor, prefix: int, cls: bool) -> Tensor:
    if cls:
        return joined[:, 0, prefix:]
    others = joined * (1 - _identity(joined))  # what a patch keeps of itself says nothing
    return others[:, prefix:, prefix:].mean(dim=1)


def class_map(config: XaigdConfig, output: XaigdOutput, method: str, *, differentiable: bool = False) -> Tensor:
    """The heat map of the class "generated", float (B, h, w) in [0, 1], each scaled by its largest value.

    Args:
        config: of the detector.
        output: of a pass with recorded layers (``XaigdModel.forward`` with ``layers``) and gradients enabled.
        method: ``rollout``, ``relevance`` or ``gradcam``.
        differentiable: whether a loss of the map will be differentiated.

    Raises:
        ConfigError: the detector has no verdict.
    """
    if output.verdict is None:
        raise ConfigError("A heat map of the verdict needs a detector with a verdict: choose another detector.")
    seen = output.seen
    sources = (seen.patches,) if method == "gradcam" else seen.attention
    gradients = torch.autograd.grad(output.verdict.sum(), sources, create_graph=differentiable, materialize_grads=True)
    if method == "gradcam":
        return scaled(gradcam(seen.patches, gradients[0]))
    walk = rollout if method == "rollout" else relevance
    flat = walk(seen.attention, gradients, prefix=seen.prefix, cls=config.pool == "cls")
    return scaled(flat.unflatten(1, seen.patches.shape[2:]))


def scaled(maps: Tensor) -> Tensor:
    """Maps of at least 0, float (B, h, w), each divided by its largest value; a map of zeros stays as it is."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=_LEAST)
