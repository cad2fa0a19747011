"""What is changed for the time of a call and put back after it: the user's models are left as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Seed the random numbers of those who ask no generator, such as Stable Diffusion 3's ControlNet, for a while."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Have an attribute of one object be another for a while; its class's, or what the user had set, comes back."""
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
    """Undo what some pipelines do in half precision: they leave their autoencoder in single precision."""
    dtype = pipe.vae.dtype
    try:
        yield
    finally:
        if pipe.vae.dtype != dtype:
            pipe.vae.to(dtype)


@contextmanager
def with_config(denoiser: Any, asked: Mapping[str, Any]) -> Iterator[None]:
    """Have entries in a model's config that an inpainting class asks for and the model's class does not have."""
    missing = {name: value for name, value in asked.items() if name not in denoiser.config}
    if not missing:
        yield
        return
    model = getattr(denoiser, "_orig_mod", denoiser)  # of what torch.compile returned
    before = model._internal_dict
    model.register_to_config(**missing)
    try:
        yield
    finally:
        model._internal_dict = before
