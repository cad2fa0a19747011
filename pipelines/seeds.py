"""Seeds of the pictures of a call."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refiner.errors import ConfigError
from refiner.pipelines.config import RefineConfig

if TYPE_CHECKING:
    import torch


def seeds_of(
    count: int,
    *,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    config: RefineConfig | None,
) -> list[int]:
    """One seed for each of ``count`` pictures: as given, drawn from generators, the config's, or at random.

    Raises:
        ConfigError: seeds and generators at once, or neither one nor ``count`` of them.
    """
    if seed is not None and generator is not None:
        raise ConfigError("Expected a seed or a generator, got both: pass one of them.")
    if generator is not None:
        seed = [_draw(one) for one in generator] if isinstance(generator, Sequence) else _draw(generator)
    elif seed is None:
        seed = config.seed if config else secrets.randbits(63)
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(f"Expected one seed or generator, or {count} (one for each picture), got {len(seeds)}.")
    return seeds


def _draw(generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
