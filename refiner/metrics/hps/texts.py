"""Features of prompts; each prompt is encoded once, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import open_clip
import torch
from cachetools import LRUCache
from torch import Tensor, nn
from torch.nn import functional

KNOWN_PROMPTS = 4096
"""Number of prompts whose features are kept: 16 MiB for the published weights."""


class Caption(NamedTuple):
    """An encoded prompt."""

    features: Tensor
    """Normalised, float (embed_dim,), on the model's device."""
    notes: tuple[str, ...]
    """A note if the prompt was cut."""


class Captions:
    """Encodes each prompt once, if it is among the last ``KNOWN_PROMPTS``.

    Args:
        model: open_clip's CLIP.
        tokenizer: texts -> int64 (texts, context length).
        precision: context for the forward pass.
    """

    def __init__(self, model: open_clip.CLIP, tokenizer: Any, precision: AbstractContextManager[Any]) -> None:
        self._model, self._tokenizer, self._precision = model, tokenizer, precision
        self._known: LRUCache[str, Caption] = LRUCache(KNOWN_PROMPTS)

    def of(self, prompts: Sequence[str]) -> list[Caption]:
        """One caption for each prompt."""
        captions = {prompt: self._known[prompt] for prompt in prompts if prompt in self._known}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in captions]
        if new:
            captions |= zip(new, self._encode(new), strict=True)
        for prompt in prompts:
            self._known[prompt] = captions[prompt]
        return [captions[prompt] for prompt in prompts]

    def _encode(self, prompts: Sequence[str]) -> list[Caption]:
        tokens = self._tokenizer(list(prompts))
        notes = [self._note(prompt, row) for prompt, row in zip(prompts, tokens, strict=True)]
        with self._precision:
            features = text_features(self._model, tokens.to(self._model.logit_scale.device))
        return [Caption(row.clone(), note) for row, note in zip(features, notes, strict=True)]

    def _note(self, prompt: str, row: Tensor) -> tuple[str, ...]:
        """A note if a prompt has too many tokens; its end token is then the last one of the row."""
        length = len(row)
        if int(row.argmax()) < length - 1 or int(self._tokenizer([prompt], length + 1).argmax()) < length:
            return ()
        return (f"prompt cut to {length} tokens",)


def text_features(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """``model.encode_text``, normalised, without the padding after the longest prompt.

    A token attends only to earlier ones, and the features are read at the last token of a prompt, so the padding does
    not affect them. Most prompts need a quarter of the work.

    Args:
        tokens: int64 (n, context length), on the model's device.

    Returns:
        float (n, embed_dim).
    """
    whole = getattr(model, "text_pool_type", None) != "argmax" or model.attn_mask is None
    if whole or not isinstance(model.text_projection, nn.Parameter):
        return model.encode_text(tokens, normalize=True)
    ends = tokens.argmax(dim=1)
    length = int(ends.max()) + 1
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    pooled = model.ln_final(hidden[torch.arange(len(tokens), device=tokens.device), ends])
    return functional.normalize(pooled @ model.text_projection, dim=-1)
