"""Linear layers of a loaded encoder through oneDNN on a CPU.

torch takes its float32 products from MKL, which leaves half of an AMD processor idle: there oneDNN, which torch carries
too, makes the same products in float32 in half the time. Results differ as those of two batch sizes do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Linear(nn.Linear):
    """``nn.Linear``, by another library where nothing is to be learnt."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_grad_enabled():
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def through_onednn(model: nn.Module) -> None:
    """Let a model's linear layers use oneDNN; nothing changes where this build of torch has none.

    Weights, names and what the model gives stay as they are. Other devices, other types than float32 and training
    are left to torch.

    Args:
        model: any; layers of a class of their own are left alone.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
