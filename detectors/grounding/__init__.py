"""Grounders make masks from boxes and points; ``load_grounder`` loads one by its id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refiner.detectors.grounding.base import BoxGrounder, Grounder
from refiner.errors import ModelNotFoundError

if TYPE_CHECKING:
    import torch

_FAMILIES = ("sam", "sam2", "sam3")


def load_grounder(
    grounder: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Grounder:
    """Load a grounder by its id.

    Args:
        grounder: ``box``; ``grabcut``; ``sam:<path>``, ``sam2:<path>`` or ``sam3:<path>``; or just such a path. The
            path is a transformers folder, a hub id, or (only for ``sam``) a ``.pth`` file of segment-anything.
        device: None selects CUDA or MPS if available, else the CPU.
        dtype: None selects float32 on a CPU, else the checkpoint's dtype.

    Raises:
        ModelNotFoundError: there is no such grounder, file or folder.
        WeightsError: the weights are damaged, incomplete or of another kind.
    """
    text = str(grounder)
    if text == "box":
        return BoxGrounder()
    if text == "grabcut":
        from refiner.detectors.grounding.grabcut import GrabCutGrounder

        return GrabCutGrounder()
    family, colon, rest = text.partition(":")
    known = bool(colon) and family in _FAMILIES
    from refiner.detectors.grounding.sam import SamGrounder

    try:
        return SamGrounder.from_pretrained(
            rest if known else text, family=family if known else None, device=device, dtype=dtype
        )
    except ModelNotFoundError as error:
        ids = ", ".join(["box", "grabcut", *(f"{name}:<path>" for name in _FAMILIES)])
        raise ModelNotFoundError(f"{error} Known grounders: {ids}.") from error
