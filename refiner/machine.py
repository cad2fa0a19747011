"""Where models run, and in which precision. The rules are the same for the command line, the demo and training."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

Offload = Literal["none", "model", "sequential", "group"]
DEVICES: Final = ("cuda", "mps", "cpu")
"""Kinds of devices; the first one that a machine has is the default."""
_M_ARENA_MAX: Final = -8
"""Of ``malloc.h``."""
DTYPES: Final = ("float32", "float16", "bfloat16")


def device_of(name: str | None) -> torch.device:
    """Return the torch device of a name such as "cpu", "cuda", "cuda:1" or "mps". None: the default of this machine.

    Raises:
        ConfigError: the device is unknown, or this machine does not have it.
    """
    kind, colon, number = (name or "").partition(":")
    if name is not None and (kind not in DEVICES or (colon and not number.isdecimal())):
        raise ConfigError(f"Expected device {', '.join(DEVICES)} or cuda:1, got {name!r}: choose one of these.")
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind in DEVICES if present[kind]))
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not present[kind] or int(number or 0) >= max(count, 1):
        raise ConfigError(f"This machine has no {name} device that torch can use: choose another, such as cpu.")
    return torch.device(name)


def check_device(name: str | None) -> None:
    """Raise ConfigError where ``device_of`` would.

    The default (None) and "cpu" are on every machine: for these, and for an unknown name, torch is not imported.
    """
    if name not in (None, "cpu"):
        device_of(name)


def check_dtype(name: str | None) -> None:
    """Raise ConfigError if a name is not one of ``DTYPES``; None: the default."""
    if name is not None and name not in DTYPES:
        raise ConfigError(f"Expected dtype {', '.join(DTYPES)}, got {name!r}: choose one of these.")


def dtype_of(name: str | None) -> torch.dtype | None:
    """Return the torch dtype with a name. None stays None, and torch is not imported.

    Raises:
        ConfigError: the name is not one of ``DTYPES``.
    """
    check_dtype(name)
    if name is None:
        return None
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device of all models, the dtype, and how diffusers pipelines are offloaded.

    Args:
        device: of pipelines, detectors and judges.
        dtype: as the user named it; None: see ``pipeline_dtype``, and for detectors see ``load_detector``.
        offload: which weights of a pipeline wait in main memory until they are used: "none", whole networks
            ("model"), or single layers ("sequential", or "group", which is faster).
    """

    device: torch.device
    dtype: torch.dtype | None = None
    offload: Offload = "none"

    @classmethod
    def choose(cls, device: str | None = None, dtype: str | None = None, offload: Offload = "none") -> Machine:
        """Build a machine from names.

        Args:
            device: as for ``device_of``.
            dtype: one of ``DTYPES``, or None.
            offload: see the class.

        Raises:
            ConfigError: there is no such device or dtype, or the models of a CPU would be offloaded.
        """
        check_dtype(dtype)
        if offload != "none" and (device == "cpu" or device_of(device).type == "cpu"):
            raise ConfigError(
                f"The offload {offload!r} moves weights between a GPU and main memory, and the device is the CPU: "
                "choose a GPU, or no offload."
            )
        return cls(device=device_of(device), dtype=dtype_of(dtype), offload=offload)

    @property
    def pipeline_dtype(self) -> torch.dtype:
        """The dtype of pipelines: the named one; else half precision on a GPU, and float32 on the CPU.

        Half precision is bfloat16 on CUDA, if all GPUs compute with it, and else float16.
        """
        import torch

        if self.dtype is not None:
            return self.dtype
        if self.device.type == "cpu":
            return torch.float32
        if self.device.type == "mps":
            return torch.float16
        oldest = min(map(torch.cuda.get_device_capability, range(torch.cuda.device_count())), default=(8, 0))
        return torch.bfloat16 if oldest >= (8, 0) else torch.float16

    def place(self, pipe: Any) -> None:
        """Move a diffusers pipeline or a ``RefinedPipeline`` to the device, or let diffusers offload it."""
        if self.offload == "none":
            pipe.to(self.device)
        elif self.offload == "model":
            pipe.enable_model_cpu_offload(device=self.device)
        elif self.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=self.device)
        else:
            # With a stream, the next layer is copied while the current one computes.
            stream = self.device.type == "cuda"
            pipe.enable_group_offload(self.device, offload_type="leaf_level", use_stream=stream)


def share_freed_memory() -> None:
    """Let all threads that start from now on share the memory that they free.

    By default, glibc keeps freed memory for each thread separately. With many threads that hold images, a process then
    grows by as much as all of them once needed together. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
