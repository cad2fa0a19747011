"""Context managers that change something for one call and restore it afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Seed torch's global random numbers, for models that use no generator, such as the ControlNet of SD3."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of an object; afterwards the old value of the object, or that of its class, is restored."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def as_it_was(pipe: DiffusionPipeline) -> Iterator[None]:
    """Restore the dtype of the autoencoder; some float16 pipelines leave it in float32."""
    dtype = pipe.vae.dtype
    try:
        yield
    finally:
        if pipe.vae.dtype != dtype:
            pipe.vae.to(dtype)


@contextmanager
def with_config(denoiser: Any, asked: Mapping[str, Any]) -> Iterator[None]:
    """Add config entries that an inpainting class reads and the class of the denoiser does not have."""
    missing = {name: value for name, value in asked.items() if name not in denoiser.config}
    if not missing:
        yield
        return
    model = getattr(denoiser, "_orig_mod", denoiser)  # the model inside a wrapper of torch.compile
    before = model._internal_dict
    model.register_to_config(**missing)
    try:
        yield
    finally:
        model._internal_dict = before
