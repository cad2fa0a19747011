"""Ending a run from elsewhere, in the middle of a step: through diffusers' own ``_interrupt`` flag."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any

_CALLBACK = "callback_on_step_end"
_ENDED = "ended by refiner"
"""What the flag is set to here, so that it is not taken for a user's ``True`` by another run."""


class Interrupt:
    """Whether a run is to end, heard at the end of every denoising step.

    Args:
        pipe: the wrapped diffusers pipeline, whose ``_interrupt`` flag ends the run too, whoever sets it.
        call: of the call that the run is one of; its end is the run's, and the pipeline's flag ends all of it.
    """

    def __init__(self, pipe: Any, call: Interrupt | None = None) -> None:
        self._pipe, self._call = pipe, call
        self._asked = threading.Event()

    def is_set(self) -> bool:
        """Whether the run was interrupted."""
        return self._asked.is_set() or (self._call is not None and self._call.is_set())

    def set(self) -> None:
        """End the run with the best so far; safe from any thread."""
        self._asked.set()

    def listening(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A pipeline's arguments with a callback that ends the painting under way; the user's own still runs.

        Pipelines that know no such callback finish what they paint.
        """
        self._pipe._interrupt = False
        if _CALLBACK not in inspect.signature(type(self._pipe).__call__).parameters:
            return dict(options)
        own = options.get(_CALLBACK)

        def listen(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            changed = tensors if own is None else own(pipe, step, timestep, tensors)
            if not {pipe._interrupt, self._pipe._interrupt} <= {False, _ENDED}:
                (self._call or self).set()
            pipe._interrupt = _ENDED if self.is_set() else False
            return changed

        wanted = {_CALLBACK: listen}
        if (inputs := getattr(own, "tensor_inputs", None)) is not None:  # diffusers asks its own callbacks for these
            wanted["callback_on_step_end_tensor_inputs"] = inputs
        return {**options, **wanted}
