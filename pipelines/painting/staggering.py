"""Different strengths in one call: rows of a batch, and latent cells of a row, that start at different steps.

Rows and cells with less strength than the rest of the batch start later in the schedule. Until then they are the
original at the noise level of each step. For whole rows, this is the same as a separate call for the row. For cells, it
is differential diffusion (Levin and Fried, arXiv 2306.00950, section 3.2): a map of strengths with a new threshold at
every step. Rows with different starts have separate copies of the scheduler, which may remember earlier steps.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refiner.pipelines.painting.borrowing import wrap, wrapped

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin

Shares = NDArray[np.float64]
"""Float (N, h, w) in [0, 1]: the strength of each latent cell of a batch; 0: the cell is not changed."""


class Stagger:
    """The start steps of the rows and cells of a batch.

    Args:
        shares: strength of each latent cell of the batch.
        strength: the largest share; it is the strength of the call.
    """

    def __init__(self, shares: Shares, *, strength: float) -> None:
        self.strength = strength
        self.levels = np.unique(np.append(shares[shares > 0], strength))
        self.codes = np.where(shares > 0, np.searchsorted(self.levels, shares) + 1, 0)
        """Int (N, h, w): the level of each cell's strength, from 1 for the smallest; 0: the cell never changes."""
        self.done = 0
        """Number of steps made."""
        self._starts = np.zeros(len(self.levels), dtype=int)
        self._later: list[tuple[int, torch.Tensor, SchedulerMixin | None]] = []

    def schedule(self, length: Callable[[float], int]) -> None:
        """Compute the first step of each level; ``length`` returns the number of schedule entries of a strength."""
        lengths = [length(float(level)) for level in self.levels]
        self._starts = lengths[-1] - np.array(lengths)
        self.done = 0

    @property
    def least(self) -> int:
        """The smallest code that changes in the next step."""
        return int(np.count_nonzero(self._starts > self.done)) + 1

    def step(self, scheduler: SchedulerMixin, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one step for the rows that have started; the other rows are returned unchanged.

        Args:
            scheduler: the scheduler of the batch.
            inner: its original ``step``; it is used for the rows that start at the first step.
            args, kwargs: arguments of ``step``.
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
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(prev_sample=latents) if dictionary else (latents,)

    def _rows_by_start(self, scheduler: SchedulerMixin) -> list[tuple[int, torch.Tensor, SchedulerMixin | None]]:
        import torch

        tops = self.codes.max(axis=(1, 2))
        starts = np.where(tops > 0, self._starts[tops - 1], 0)
        return [
            (int(start), torch.from_numpy(np.flatnonzero(starts == start)), _later(scheduler, int(start)))
            for start in np.unique(starts)
        ]


@contextmanager
def staggered(pipe: DiffusionPipeline, shares: Shares, *, cell: int, strength: float) -> Iterator[None]:
    """Let an inpainting pipeline use a separate strength for each cell in its next call; afterwards it is as before.

    The pipeline must restore the known latents outside its mask after every step. The mask grows during the call.

    Args:
        pipe: inpainting pipeline with a scheduler that is used only for this call.
        shares, strength: see ``Stagger``.
        cell: side of the cells, in pixels.
    """
    stagger = Stagger(shares, strength=strength)
    if len(stagger.levels) == 1:
        yield
        return
    gate = _Gate(stagger, cell)
    wrap(pipe.scheduler, "step", functools.partial(gate.step, pipe.scheduler))
    with (
        wrapped(pipe, "get_timesteps", gate.get_timesteps),
        wrapped(pipe, "prepare_mask_latents", gate.prepare_mask_latents),
    ):
        yield


class _Gate:
    """Wrappers for two methods of an inpainting pipeline and a method of its scheduler."""

    def __init__(self, stagger: Stagger, cell: int) -> None:
        self.stagger, self.cell = stagger, cell
        self.mask: torch.Tensor | None = None  # the mask of the pipeline; it is changed in place
        self.codes: torch.Tensor | None = None  # the codes in the layout of the mask

    def get_timesteps(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        self.stagger.schedule(lambda strength: len(inner(**{**given, "strength": strength})[0]))
        return inner(*args, **kwargs)

    def prepare_mask_latents(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Pass the codes instead of the mask, so that the pipeline converts them to the layout of its latents."""
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


def _later(scheduler: SchedulerMixin, start: int) -> SchedulerMixin | None:
    """Copy a scheduler that has made no step, for rows that start later; None for rows that start at the first step."""
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
        own._step_index = None  # was set when the first input was scaled
    return own


def _only(value: Any, rows: torch.Tensor, count: int) -> Any:
    """Select the part of a step's argument that belongs to the rows."""
    import torch

    if isinstance(value, torch.Tensor):
        return value[rows] if value.ndim and len(value) == count else value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count:
        return [value[row] for row in rows]
    return value
