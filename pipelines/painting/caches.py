"""What the loop would compute again and again, kept for a while: prompts' embeddings and images' latents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from refiner.pipelines.painting.borrowing import replaced

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Remade = Callable[["torch.Tensor"], Any]
"""Makes an autoencoder's output of the rows that it consists of."""


class PromptCache:
    """What pipelines' ``encode_prompt`` returned, by its arguments; the same tensors, so the same pictures.

    It knows nothing of changes to the encoders, such as a LoRA loaded later: make a new one for each call. Pictures of
    one call share it, so that a large text encoder that is offloaded comes back once for all of them.

    Args:
        limit: how many results are kept, those asked for last.
    """

    def __init__(self, limit: int = 8) -> None:
        self._kept: LRUCache[Hashable, tuple[tuple[Any, ...], Any]] = LRUCache(limit)

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
            return _copied(self._kept[key][1])

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


class LatentCache:
    """What an autoencoder's ``encode`` made of each picture, by its pixels.

    Candidates of one region show the model the same crop, and so does a region that is tried again where nothing
    around it has changed. It knows nothing of changes to the autoencoder: make a new one for each refinement.

    Args:
        limit: how many pictures' latents are kept, those asked for last.
    """

    def __init__(self, limit: int = 64) -> None:
        self._kept: LRUCache[Hashable, tuple[Remade, torch.Tensor]] = LRUCache(limit)

    @contextmanager
    def on(self, pipe: DiffusionPipeline) -> Iterator[None]:
        """Have a pipeline's autoencoder look here first for a while; a pipeline without one goes on as it is."""
        vae: Any = getattr(pipe, "vae", None)
        inner = getattr(vae, "encode", None)
        if inner is None:
            yield
            return

        @functools.wraps(inner)
        def encode(*args: Any, **options: Any) -> Any:
            plain = len(args) == 1 and not options
            return self._encode(vae, inner, args[0]) if plain else inner(*args, **options)

        with replaced(vae, "encode", encode):
            yield

    def _encode(self, vae: Any, inner: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> Any:
        """The autoencoder's own kind of output for float (N, 3, H, W) or (N, 3, F, H, W); each picture once."""
        import torch

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
    """The rows of an output, and how to make an output of rows; None: of a kind that is not known."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution, EncoderOutput

    if isinstance(output, EncoderOutput):
        return lambda rows: EncoderOutput(latent=rows), output.latent
    chances: Any = getattr(output, "latent_dist", None)
    if type(chances) is not DiagonalGaussianDistribution:
        return None
    kind: Any = type(output)
    sure = chances.deterministic
    return lambda rows: kind(latent_dist=DiagonalGaussianDistribution(rows, deterministic=sure)), chances.parameters
