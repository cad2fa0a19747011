"""Attention of transformers' networks: fast everywhere, and written out in the layers whose weights are needed.

transformers chooses one attention function for a whole network. Ours (``AttentionInterface``) is torch's fused
attention, apart from the last layers of a pass inside ``recording``. There the weights are computed and kept. Gradients
with respect to these weights pass only through the layers above, so the fused layers below need no second derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME: Final = "refiner_recorded"
"""For ``set_attn_implementation``."""


class Record:
    """The attention of the last layers of one forward pass.

    Args:
        skip: number of layers, from the first, that are not recorded.
    """

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.weights: list[Tensor] = []
        """Of each recorded layer, float32 (B, heads, T, T); rows add up to 1."""
        self._passed = 0

    def wants_next(self) -> bool:
        """Whether the layer that runs now is recorded."""
        self._passed += 1
        return self._passed > self.skip


_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)


@contextmanager
def recording(skip: int) -> Iterator[Record]:
    """Record the attention of one forward pass of a network inside the block, in this thread."""
    record = Record(skip)
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: queries, keys and values (B, heads, T, C) -> (B, T, heads, C)."""
    record = _RECORD.get()
    if record is None or not record.wants_next():
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return mixed.transpose(1, 2), None
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    if not weights.requires_grad and torch.is_grad_enabled():
        weights.requires_grad_()  # a frozen network; gradients start here
    record.weights.append(weights)
    dropped = functional.dropout(weights, dropout, training=dropout > 0)
    return (dropped.to(value.dtype) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
