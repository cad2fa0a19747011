"""Prompts' embeddings, kept while a call lasts: a prompt that comes again does not pass the text encoders again."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refiner.pipelines.painting.borrowing import replaced

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class PromptCache:
    """What pipelines' ``encode_prompt`` returned, by its arguments; the same tensors, so the same pictures.

    It knows nothing of changes to the encoders, such as a LoRA loaded later: make a new one for each call. Pictures of
    one call share it, so that a large text encoder that is offloaded comes back once for all of them.

    Args:
        limit: how many results are kept, those asked for last.
    """

    def __init__(self, limit: int = 8) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[tuple[Any, ...], Any]] = OrderedDict()

    @contextmanager
    def on(self, pipe: DiffusionPipeline) -> Iterator[None]:
        """Have a pipeline ask here first for a while; one without ``encode_prompt`` goes on as it is."""
        inner = getattr(pipe, "encode_prompt", None)
        if inner is None:
            yield
            return

        @functools.wraps(inner)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            encoders = _encoders(pipe)
            try:
                key = (*map(id, encoders), _frozen(args), _frozen(sorted(kwargs.items())))
            except TypeError:  # embeddings are given instead of a prompt
                return inner(*args, **kwargs)
            if key not in self._kept:
                self._kept[key] = encoders, inner(*args, **kwargs)  # alive, lest another get one's id
            self._kept.move_to_end(key)
            found = _copied(self._kept[key][1])
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
            return found

        with replaced(pipe, "encode_prompt", encode_prompt):
            yield


def _encoders(pipe: DiffusionPipeline) -> tuple[Any, ...]:
    """Who encodes: the class, whose method may be its own, and the models."""
    parts = (part for name, part in sorted(pipe.components.items()) if name.startswith(("text_encoder", "tokenizer")))
    return type(pipe), *parts


def _frozen(value: Any) -> Hashable:
    """An argument as part of a key.

    Raises:
        TypeError: one that is not known by its value, such as a tensor.
    """
    import torch

    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if value is None or isinstance(value, str | int | float | torch.device | torch.dtype):
        return type(value), value
    raise TypeError(f"Expected plain arguments, got {type(value).__name__}.")


def _copied(value: Any) -> Any:
    """What was kept, safe from who changes it in place."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value
