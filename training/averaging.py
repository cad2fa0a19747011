"""Exponential moving average (EMA) of a network's weights. Training exports the average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def changing(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without its frozen weights, which training does not change."""
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


class Ema:
    """Exponential moving average of weights by name. At update n the decay is min(decay, (1 + n) / (10 + n))."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Add the current weights to the average. Integer buffers are copied."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor, 1 - decay)
            else:
                self.shadow[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.shadow = {name: tensor.to(self.shadow[name].device) for name, tensor in state["shadow"].items()}
