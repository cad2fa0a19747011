"""Context managers that change something for one call and restore it afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
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


def wrap(owner: object, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method of one object by ``wrapper``, which gets the method as first argument; the signature is kept."""
    inner = getattr(owner, name)
    setattr(owner, name, functools.wraps(inner)(functools.partial(wrapper, inner)))


@contextmanager
def wrapped(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Wrap a method, if the object has it (see ``wrap``), and restore it afterwards."""
    if not hasattr(owner, name):
        yield
        return
    missing = object()
    before = vars(owner).get(name, missing)
    wrap(owner, name, wrapper)
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
