"""Context managers that change something for one call and restore it afterwards."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from refiner import locks
from refiner.pipelines.painting.families import denoiser_of, tokenizers_of

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin


def exclusive(*pipes: DiffusionPipeline) -> AbstractContextManager[None]:
    """Use pipelines without other threads; calls that overlap would share schedulers, hooks and changed methods.

    Their tokenizers are locked too, because padding is a state of tokenizers.
    """
    import torch

    networks = [part for pipe in pipes for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return locks.exclusive([*networks, *(part for pipe in pipes for part in tokenizers_of(pipe))])


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
def before_passes(
    denoiser: torch.nn.Module, note: Callable[[tuple[Any, ...], Mapping[str, Any]], None]
) -> Iterator[None]:
    """Call ``note`` with the arguments of every pass through a denoiser, also a compiled one, before the pass."""

    def called(compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        note(args, kwargs)
        return compiled(*args, **kwargs)

    if denoiser._compiled_call_impl is None:
        with denoiser.register_forward_pre_hook(lambda _module, *given: note(*given), with_kwargs=True):
            yield
    else:  # compiled by Module.compile(), where hooks are compiled too, or ignored
        with wrapped(denoiser, "_compiled_call_impl", called):
            yield


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute of an instance, if it has it, and restore it afterwards."""
    if name not in vars(owner):
        yield
        return
    own = vars(owner)  # past the method of pipelines that also changes their config
    before = own[name]
    own[name] = value
    try:
        yield
    finally:
        own[name] = before


@contextmanager
def own_scheduler(pipe: DiffusionPipeline) -> Iterator[SchedulerMixin]:
    """Give a pipeline a copy of its scheduler, with its state at run time, such as a shift that was set."""
    scheduler = copied(pipe.scheduler)
    with replaced(pipe, "scheduler", scheduler):
        yield scheduler


def copied(scheduler: SchedulerMixin) -> SchedulerMixin:
    """Copy a scheduler so that steps of the copy do not change the original; generators of noise are shared."""
    import torch

    own = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor):
            setattr(own, name, value.clone())
        elif isinstance(value, list | dict):
            setattr(own, name, copy.copy(value))
        elif getattr(value, "__self__", None) is scheduler:
            setattr(own, name, value.__func__.__get__(own))
    return own


@contextmanager
def as_it_was(pipe: DiffusionPipeline) -> Iterator[None]:
    """Restore the dtype of the autoencoder and the attention processors of the denoiser.

    Some float16 pipelines leave the autoencoder in float32. Those with perturbed-attention guidance leave their own
    processors when a call fails.
    """
    vae = getattr(pipe, "vae", None)
    dtype = getattr(vae, "dtype", None)
    perturbed = denoiser_of(pipe).modules() if hasattr(pipe, "pag_applied_layers") else ()
    processors = [(module, module.processor) for module in perturbed if hasattr(module, "processor")]
    try:
        yield
    finally:
        if vae is not None and vae.dtype != dtype:
            vae.to(dtype)
        for module, processor in processors:
            module.processor = processor


@contextmanager
def cleaned_up(pipe: DiffusionPipeline) -> Iterator[None]:
    """After an exception, reset the caches of the denoiser and offload the models, as the end of a call does."""
    try:
        yield
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise
