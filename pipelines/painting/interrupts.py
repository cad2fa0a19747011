"""End a run from a callback or another thread, through the ``_interrupt`` flag of diffusers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any

_CALLBACK = "callback_on_step_end"
_ENDED = "ended by refiner"
"""Value that refiner sets the flag to, so that another run does not take it for a ``True`` set by the user."""


class Interrupt(threading.Event):
    """A flag that ends a run with the best image so far; it is checked at the end of every denoiser step.

    Args:
        pipe: the wrapped diffusers pipeline. Setting its ``_interrupt`` flag ends the run (of a call, all its runs).
        call: the flag of the call to which the run belongs, if any. It ends all runs of the call.
    """

    def __init__(self, pipe: Any, call: Interrupt | None = None) -> None:
        super().__init__()
        self._pipe, self._call = pipe, call

    def is_set(self) -> bool:
        """Whether the run or its call was interrupted."""
        return super().is_set() or (self._call is not None and self._call.is_set())

    def listening(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Add a step callback to a pipeline's arguments that stops generation; the user's callback is still called.

        Pipelines without step callbacks finish their current image.
        """
        self._pipe._interrupt = False
        if _CALLBACK not in inspect.signature(type(self._pipe).__call__).parameters:
            return dict(options)
        own = options.get(_CALLBACK)

        def listen(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            changed = tensors if own is None else own(pipe, step, timestep, tensors)
            if not {getattr(pipe, "_interrupt", False), self._pipe._interrupt} <= {False, _ENDED}:
                (self._call or self).set()
            pipe._interrupt = _ENDED if self.is_set() else False
            return changed

        wanted = {_CALLBACK: listen}
        if (inputs := getattr(own, "tensor_inputs", None)) is not None:  # diffusers reads these from its own callbacks
            wanted["callback_on_step_end_tensor_inputs"] = inputs
        return {**options, **wanted}
