"""Knowing that memory ran out, on whatever device, and making room again. Imports no torch of its own."""

from __future__ import annotations

import gc
import sys

_SAYINGS = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")
"""How torch says it, for CUDA, MPS, XPU and the CPU; lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or Python's way of saying that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)


def make_room() -> None:
    """Let go of what nobody uses any more: call it after the error, and its tracebacks with it, are gone."""
    gc.collect()
    torch = sys.modules.get("torch")
    for device in ("cuda", "mps", "xpu"):
        backend = getattr(torch, device, None)
        if backend is not None and backend.is_available():
            backend.empty_cache()


def first_line(error: BaseException) -> str:
    """The first sentence of what torch says at length."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].removesuffix(".")
