"""Caches for values that the loop would compute repeatedly: prompt embeddings and image latents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from refiner.pipelines.painting.borrowing import wrapped

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Remade = Callable[["torch.Tensor"], Any]
"""Builds an output of an autoencoder from its rows."""


class PromptCache:
    """Caches the results of ``encode_prompt`` by its arguments; the tensors are equal, so the images are equal.

    It does not notice changes of the encoders, such as a LoRA that is loaded later, so make a new cache for each call.
    The images of one call share it. Then a large text encoder that is offloaded is loaded only once for all of them.
    The ``limit`` most recently used results are kept.
    """

    def __init__(self, limit: int = 8) -> None:
        self._kept: LRUCache[Hashable, tuple[list[Any], Any]] = LRUCache(limit)

    def on(self, pipe: DiffusionPipeline) -> AbstractContextManager[None]:
        """Let a pipeline use this cache inside the context; without ``encode_prompt`` it is not changed."""
        return wrapped(pipe, "encode_prompt", functools.partial(self._encode, pipe))

    def _encode(self, pipe: DiffusionPipeline, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parts = sorted(pipe.components.items())
        encoders = [type(pipe), *(part for name, part in parts if name.startswith(("text_encoder", "tokenizer")))]
        try:
            key = (*map(id, encoders), _frozen(args), _frozen(sorted(kwargs.items())))
        except TypeError:  # embeddings were passed instead of a prompt
            return inner(*args, **kwargs)
        if key not in self._kept:
            self._kept[key] = encoders, inner(*args, **kwargs)  # the encoders stay alive, so that ids stay unique
        return _copied(self._kept[key][1])


def _frozen(value: Any) -> Hashable:
    """Convert an argument to a part of a key; a TypeError says that it has no value to compare, such as a tensor."""
    import torch

    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if value is None or isinstance(value, str | int | float | torch.device | torch.dtype):
        return type(value), value
    raise TypeError(f"A {type(value).__name__} cannot be part of a cache key.")


def _copied(value: Any) -> Any:
    """Copy a cached value, so that changes in place do not reach the cache."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


class LatentCache:
    """Caches the results of an autoencoder's ``encode`` by the pixels of each image.

    All candidates of a region use the same crop. So does a later try at a region, if nothing around it has changed. The
    cache does not notice changes of the autoencoder, so make a new cache for each refinement. The latents of the
    ``limit`` most recently used images are kept.
    """

    def __init__(self, limit: int = 64) -> None:
        self._kept: LRUCache[Hashable, tuple[Remade, torch.Tensor]] = LRUCache(limit)

    def on(self, pipe: DiffusionPipeline) -> AbstractContextManager[None]:
        """Let a pipeline's autoencoder use this cache inside the context; without one, nothing is changed."""
        vae = getattr(pipe, "vae", None)
        return wrapped(vae, "encode", functools.partial(self._encode, vae))

    def _encode(self, vae: Any, inner: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Encode float (N, 3, H, W) or (N, 3, F, H, W), only the new images; returns the autoencoder's output type."""
        import torch

        if len(args) != 1 or options:
            return inner(*args, **options)
        pixels: torch.Tensor = args[0]
        keys = [(id(vae), picture.dtype, picture.device, picture.shape, _digest(picture)) for picture in pixels]
        rows: dict[Hashable, tuple[Remade, torch.Tensor]] = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: place for place, key in enumerate(keys) if key not in rows}
        if new:
            output = inner(pixels[list(new.values())])
            taken = _taken_apart(output)
            if taken is None:
                return output if len(new) == len(keys) else inner(pixels)
            rows.update((key, (taken[0], row.clone())) for key, row in zip(new, taken[1], strict=True))
        self._kept.update(rows)
        return rows[keys[0]][0](torch.stack([rows[key][1] for key in keys]))


def _digest(picture: torch.Tensor) -> bytes:
    import torch

    return hashlib.sha256(picture.detach().contiguous().view(torch.uint8).cpu().numpy().data).digest()


def _taken_apart(output: Any) -> tuple[Remade, torch.Tensor] | None:
    """Split an output into its rows and a function that builds an output from rows; None: unknown type of output."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution, EncoderOutput

    if isinstance(output, EncoderOutput):
        return lambda rows: EncoderOutput(latent=rows), output.latent
    chances: Any = getattr(output, "latent_dist", None)
    if type(chances) is not DiagonalGaussianDistribution:
        return None
    kind: Any = type(output)
    sure = chances.deterministic
    return lambda rows: kind(latent_dist=DiagonalGaussianDistribution(rows, deterministic=sure)), chances.parameters
