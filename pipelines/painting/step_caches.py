"""Caches of diffusers inside a denoiser, such as those of ``enable_cache``, which reuse what earlier steps computed.

Their state must not pass from one call to the next. They also need to know the denoiser pass (with or without the
prompt) and the timestep, which not every class of diffusers tells them, so it is told here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from refiner.pipelines.painting.borrowing import before_passes, wrapped
from refiner.pipelines.painting.families import denoiser_of

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_TIMESTEP = "_current_timestep"
"""Attribute of pipelines that callbacks of caches read, such as ``lambda: pipe.current_timestep``."""


def caches_steps(pipe: DiffusionPipeline) -> bool:
    """Whether the denoiser has a cache whose state depends on the earlier steps of a call."""
    return bool(_stateful(denoiser_of(pipe)))


def forget_steps(pipe: DiffusionPipeline) -> None:
    """Empty the caches of all networks; an earlier call that was interrupted or failed may have left something."""
    import torch

    for part in pipe.components.values():
        for module, hook in _stateful(part) if isinstance(part, torch.nn.Module) else ():
            hook.reset_state(module)


def _stateful(network: torch.nn.Module) -> list[tuple[torch.nn.Module, Any]]:
    registries = ((module, getattr(module, "_diffusers_hook", None)) for module in network.modules())
    hooks = [(module, hook) for module, held in registries if held is not None for hook in held.hooks.values()]
    return [(module, hook) for module, hook in hooks if hook._is_stateful]


@contextmanager
def told_steps(pipe: DiffusionPipeline, *owners: DiffusionPipeline) -> Iterator[None]:
    """Tell the caches of a denoiser, in one call, which pass and timestep it is at; afterwards nothing is changed.

    Args:
        pipe: the pipeline that is called, with a scheduler that is used only for this call.
        owners: the pipelines that the user knows; their ``current_timestep`` becomes that of the call.
    """
    if not caches_steps(pipe):
        yield
        return
    denoiser = denoiser_of(pipe)
    inner = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile wraps it in a module of its own
    with ExitStack() as stack:
        steps = _Steps(pipe, owners, stack.enter_context(ExitStack()), getattr(inner, "cache_context", None))
        for owner in owners:
            stack.enter_context(_restored(owner, _TIMESTEP))
        stack.enter_context(wrapped(inner, "cache_context", steps.cache_context))
        stack.enter_context(wrapped(pipe.scheduler, "step", steps.step))
        stack.enter_context(before_passes(denoiser, steps.before_pass))
        yield


class _Steps:
    """Counts the passes of each step, and names them for caches that keep a state for each pass.

    In the first step, the timestep that caches ask for is infinite. It lies outside every range of timesteps in which
    they skip work, and a call that starts late in the schedule has nothing yet that could take the place of that work.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        owners: tuple[DiffusionPipeline, ...],
        context: ExitStack,
        named: Callable[[str], Any] | None,
    ) -> None:
        self.pipe, self.owners, self.context, self.named = pipe, owners, context, named
        self.steps = 0
        self.passes = 0  # of this step
        self.timestep: Any = None

    def cache_context(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Leave the names to a pipeline that gives them itself."""
        self.named = None
        return inner(*args, **kwargs)

    def before_pass(self, _args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
        if self.named is not None:
            self.context.close()
            self.context.enter_context(self.named(f"pass {self.passes}"))
        if not self.passes:
            own = getattr(self.pipe, _TIMESTEP, None)
            self.timestep = self._scheduled() if own is None else own
        self.passes += 1
        self._tell(self.timestep if self.steps else math.inf)

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._tell(self.timestep)
        self.steps += 1
        self.passes = 0
        return inner(*args, **kwargs)

    def _tell(self, timestep: Any) -> None:
        for owner in self.owners:
            setattr(owner, _TIMESTEP, timestep)

    def _scheduled(self) -> Any:
        """Return the timestep of the scheduler's next step, if known, for classes that do not say where they are."""
        scheduler = self.pipe.scheduler
        if not hasattr(scheduler, "step_index"):
            return None
        index = scheduler.step_index
        return scheduler.timesteps[(scheduler.begin_index or 0) if index is None else index]


@contextmanager
def _restored(owner: DiffusionPipeline, name: str) -> Iterator[None]:
    before = {key: value for key, value in vars(owner).items() if key == name}
    try:
        yield
    finally:
        vars(owner).pop(name, None)
        vars(owner).update(before)
