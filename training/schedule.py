"""The learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine_schedule(warmup: int, total: int, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor by step: linear from 0 to 1 over ``warmup`` steps, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
