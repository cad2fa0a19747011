"""Detect that memory ran out, on any device, and free memory. This module does not import torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")
"""Parts of torch's messages for CUDA, MPS, XPU and the CPU, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


class NoMemoryError(Exception):
    """Memory ran out; the message is the first sentence of the original error."""


def with_memory(work: Callable[..., T], *args: Any) -> T:
    """Call ``work``; if memory runs out, free unused memory and raise ``NoMemoryError``."""
    try:
        return work(*args)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].removesuffix(".")
    gc.collect()  # after the except block, when the traceback no longer keeps tensors alive
    torch = sys.modules.get("torch")
    for device in ("cuda", "mps", "xpu"):
        backend = getattr(torch, device, None)
        if backend is not None and backend.is_available():
            backend.empty_cache()
    raise NoMemoryError(said)
