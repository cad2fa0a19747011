"""The heat map of the class "generated": where a verdict comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from refiner.detectors.heatmaps import gradcam, relevance, rollout, scaled
from refiner.detectors.xaigd.config import XaigdConfig
from refiner.detectors.xaigd.modeling import XaigdOutput
from refiner.errors import ConfigError


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
