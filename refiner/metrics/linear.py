"""Linear layers of a loaded encoder through oneDNN on a CPU.

torch takes its float32 products from MKL, which leaves half of an AMD processor idle: there oneDNN, which torch carries
too, makes the same products in float32 in half the time. Results differ as those of two batch sizes do. The weights
are laid out for it when they are first used, a second time beside the layer's own.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_OPERATIONS: Final = ("_linear_pointwise", "_reorder_linear_weight")
_ROWS: Final = 512
"""For which the weights are laid out; any other number of rows is multiplied as well."""
_LAID_OUT: Final[WeakKeyDictionary[nn.Linear, tuple[tuple[int, int], Tensor]]] = WeakKeyDictionary()
"""By layer: place and version of its weights, and what was made of them."""


class _Linear(nn.Linear):
    """``nn.Linear``, by another library where nothing is to be learnt."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_grad_enabled():
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._laid_out(), self.bias, "none", [], "")
        return product

    def _laid_out(self) -> Tensor:
        state = self.weight.data_ptr(), 0 if self.weight.is_inference() else self.weight._version
        held = _LAID_OUT.get(self)
        if held is None or held[0] != state:
            held = state, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _ROWS)
            _LAID_OUT[self] = held
        return held[1]


def through_onednn(model: nn.Module) -> None:
    """Let a model's linear layers use oneDNN; nothing changes where this build of torch has none.

    Weights, names and what the model gives stay as they are. Other devices, other types than float32 and training
    are left to torch.

    Args:
        model: any; layers of a class of their own are left alone.
    """
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS):
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
