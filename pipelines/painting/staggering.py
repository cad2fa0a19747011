"""Rows of one batch, and latent cells of one row, that begin at different steps of one schedule.

What has less strength than the rest of its batch stays at its original, brought to the noise level of each step, until
its own start. For whole rows this is what a call of their own would do; for cells it is differential diffusion (Levin
and Fried, arXiv 2306.00950, section 3.2): a map of strengths, thresholded anew at every step.

Each row is stepped from its own start by a scheduler of its own, so that schedulers that remember earlier steps or draw
noise do so as if the row were alone.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin

Shares = NDArray[np.float64]
"""Float (N, h, w) in [0, 1]: with what strength each latent cell of a batch is repainted, 0 where it stays."""


class Stagger:
    """When the rows and cells of a batch begin.

    Args:
        shares: of the batch.
        strength: the largest of them; it is the whole batch's.
    """

    def __init__(self, shares: Shares, *, strength: float) -> None:
        self.strength = strength
        self.levels = np.unique(np.append(shares[shares > 0], strength))
        self.codes = np.where(shares > 0, np.searchsorted(self.levels, shares) + 1, 0)
        """Int (N, h, w): the number of each cell's level, the least being 1; 0 where nothing ever changes."""
        self.done = 0
        """Steps."""
        self._starts = np.zeros(len(self.levels), dtype=int)
        self._later: list[tuple[int, torch.Tensor, SchedulerMixin | None]] = []

    @property
    def varied(self) -> bool:
        """Whether anything begins later than the rest."""
        return len(self.levels) > 1

    def schedule(self, length: Callable[[float], int]) -> None:
        """Learn when each level begins.

        Args:
            length: from a strength to the length of its part of the schedule, in entries.
        """
        lengths = [length(float(level)) for level in self.levels]
        self._starts = lengths[-1] - np.array(lengths)
        self.done = 0

    @property
    def least(self) -> int:
        """The least code that changes in the step that comes next."""
        return int(np.count_nonzero(self._starts > self.done)) + 1

    def step(self, scheduler: SchedulerMixin, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One step of the rows that have begun; the others come back as they are.

        Args:
            scheduler: the batch's, whose ``step`` was ``inner``.
            inner: it steps the rows that begin at once.
            args: of the scheduler's ``step``.
            kwargs: the same.
        """
        if self.done == 0:
            self._later = self._rows_by_start(scheduler)
        self.done += 1
        if len(self._later) == 1:
            return inner(*args, **kwargs)
        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        dictionary = given.pop("return_dict", True)
        latents = given["sample"].clone()
        for start, rows, own in self._later:
            if start < self.done:
                part = {name: _only(value, rows, len(latents)) for name, value in given.items()}
                stepped = (inner if own is None else own.step)(**part, return_dict=False)[0]
                latents = latents.to(stepped.dtype)
                latents[rows] = stepped
        if not dictionary:
            return (latents,)
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(prev_sample=latents)

    def _rows_by_start(self, scheduler: SchedulerMixin) -> list[tuple[int, torch.Tensor, SchedulerMixin | None]]:
        import torch

        tops = self.codes.max(axis=(1, 2))
        starts = np.where(tops > 0, self._starts[tops - 1], 0)
        return [
            (int(start), torch.from_numpy(np.flatnonzero(starts == start)), _later(scheduler, int(start)))
            for start in np.unique(starts)
        ]


def staggered(pipe: DiffusionPipeline, shares: Shares, *, cell: int, strength: float) -> None:
    """Let an inpainting pipeline, and its own scheduler, repaint each cell with its own strength in the next call.

    Such a pipeline lays the known latents over whatever is not masked after every step: its mask grows while it runs.

    Args:
        pipe: inpainting pipeline that nobody else uses.
        shares: of the call's batch.
        cell: side of the cells, in pixels.
        strength: of the call; the largest share.
    """
    stagger = Stagger(shares, strength=strength)
    if not stagger.varied:
        return
    gate = _Gate(stagger, cell)
    wrap(pipe, "get_timesteps", gate.get_timesteps)
    wrap(pipe, "prepare_mask_latents", gate.prepare_mask_latents)
    wrap(pipe.scheduler, "step", functools.partial(gate.step, pipe.scheduler))


class _Gate:
    """What happens in the three methods of an inpainting pipeline and its scheduler that are wrapped."""

    def __init__(self, stagger: Stagger, cell: int) -> None:
        self.stagger, self.cell = stagger, cell
        self.mask: torch.Tensor | None = None  # the pipeline's own, which is written to
        self.codes: torch.Tensor | None = None  # in its layout

    def get_timesteps(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        self.stagger.schedule(lambda strength: len(inner(**{**given, "strength": strength})[0]))
        return inner(*args, **kwargs)

    def prepare_mask_latents(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have the pipeline bring the codes into the layout of its latents, in the mask's place."""
        import torch

        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        codes = self.stagger.codes.repeat(self.cell, axis=1).repeat(self.cell, axis=2)[:, None]
        made = inner(**{**given, "mask": torch.from_numpy(codes).to(given["mask"])})
        self.mask = made[0] if isinstance(made, tuple) else made
        self.codes = self.mask.clone()
        return made

    def step(self, scheduler: SchedulerMixin, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self.mask is not None
        assert self.codes is not None
        self.mask.copy_(self.codes >= self.stagger.least)
        return self.stagger.step(scheduler, inner, *args, **kwargs)


def wrap(owner: object, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method of one object by ``wrapper``, which gets the method first; its signature stays."""
    inner = getattr(owner, name)
    setattr(owner, name, functools.wraps(inner)(functools.partial(wrapper, inner)))


def _later(scheduler: SchedulerMixin, start: int) -> SchedulerMixin | None:
    """A copy of a scheduler that was set up and has not stepped, to be used from a later step on; None: itself."""
    if not start:
        return None
    own = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if hasattr(value, "__wrapped__"):
            delattr(own, name)
        elif isinstance(value, list):
            setattr(own, name, list(value))
    if hasattr(own, "set_begin_index"):
        own.set_begin_index((scheduler.begin_index or 0) + start)
        own._step_index = None  # scaling the first input has set it
    return own


def _only(value: Any, rows: torch.Tensor, count: int) -> Any:
    """The part of an argument of a step that is the rows'."""
    import torch

    if isinstance(value, torch.Tensor):
        return value[rows] if value.ndim and len(value) == count else value
    return [value[row] for row in rows] if _is_for_each(value, count) else value


def _is_for_each(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
