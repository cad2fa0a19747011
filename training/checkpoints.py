"""Checkpoints: everything that the next training step depends on, with the state of torch's CPU generator.

Recipes use this generator, or generators that they seed by the step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from refiner.errors import WeightsError


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint. The previous file is replaced only when the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({**state, "random": {"torch": torch.get_rng_state()}}, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint and restore the random generator; None if there is no file.

    Raises:
        WeightsError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        torch.set_rng_state(state.pop("random")["torch"])
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"The checkpoint {str(path)!r} is damaged ({error!r}): delete it to start this stage again."
        ) from error
    return state
