"""Detect that memory ran out, on any device, and free memory. This module does not import torch."""

from __future__ import annotations

import gc
import sys

_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")
"""Parts of torch's messages for CUDA, MPS, XPU and the CPU, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


def make_room() -> None:
    """Free unused memory. Call it after the ``except`` block, when the traceback no longer keeps tensors alive."""
    gc.collect()
    torch = sys.modules.get("torch")
    for device in ("cuda", "mps", "xpu"):
        backend = getattr(torch, device, None)
        if backend is not None and backend.is_available():
            backend.empty_cache()


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].removesuffix(".")
