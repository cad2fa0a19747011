"""How this process was started: alone, or by a launcher as one of several, such as ``accelerate launch``."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether a launcher started this process as one of several, or for DeepSpeed."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 or asked("ACCELERATE_USE_DEEPSPEED")


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return int(os.environ.get("RANK") or 0) == 0


def asked(name: str) -> bool:
    """Whether a variable of the environment is "true"."""
    return os.environ.get(name, "false").lower() == "true"
