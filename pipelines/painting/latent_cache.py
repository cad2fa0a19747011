"""Pictures' latents, kept while a refinement lasts: a crop that comes again does not pass the autoencoder again."""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refiner.pipelines.painting.borrowing import replaced

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Remade = Callable[["torch.Tensor"], Any]
"""Makes an autoencoder's output of the rows that it consists of."""


class LatentCache:
    """What an autoencoder's ``encode`` made of each picture, by its pixels.

    Candidates of one region show the model the same crop, and so does a region that is tried again where nothing
    around it has changed. It knows nothing of changes to the autoencoder: make a new one for each refinement.

    Args:
        limit: how many pictures' latents are kept, those asked for last.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Remade, torch.Tensor]] = OrderedDict()

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
        new = {key: place for place, key in enumerate(keys) if key not in self._kept}
        if new:
            output = inner(pixels[list(new.values())])
            taken = _taken_apart(output)
            if taken is None:
                return output if len(new) == len(keys) else inner(pixels)
            self._kept.update((key, (taken[0], row.clone())) for key, row in zip(new, taken[1], strict=True))
        for key in keys:
            self._kept.move_to_end(key)
        found = self._kept[keys[0]][0](torch.stack([self._kept[key][1] for key in keys]))
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found


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
