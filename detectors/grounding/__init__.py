"""Grounders make masks from boxes and points; ``load_grounder`` loads one by its id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refiner.detectors.grounding.base import BoxGrounder, Grounder
from refiner.errors import ModelNotFoundError
from refiner.hub import locate

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

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
    family, path = _split(text)
    from refiner.detectors.grounding.sam import SamGrounder

    try:
        return SamGrounder.from_pretrained(path, family=family, device=device, dtype=dtype)
    except ModelNotFoundError as error:
        raise _with_known(error) from error


def grounder_needs(grounder: str | Path) -> Needs:
    """List the folders and hub models that ``load_grounder`` reads; nothing is downloaded.

    Raises:
        ModelNotFoundError: there is no such grounder, file or folder.
    """
    if str(grounder) in ("box", "grabcut"):
        return []
    _, path = _split(str(grounder))
    file = Path(path).expanduser()
    if file.is_file():
        return [file]
    if file.suffix in (".pth", ".pt"):
        raise ModelNotFoundError(f"There is no weight file {path!r} of segment-anything: check the path.")
    try:
        return [locate(path, "detector")]
    except ModelNotFoundError as error:
        raise _with_known(error) from error


def _split(grounder: str) -> tuple[str | None, str]:
    """Split the id of a SAM into its family, None if it is not named, and its path."""
    family, colon, path = grounder.partition(":")
    return (family, path) if colon and family in _FAMILIES else (None, grounder)


def _with_known(error: ModelNotFoundError) -> ModelNotFoundError:
    ids = ", ".join(["box", "grabcut", *(f"{name}:<path>" for name in _FAMILIES)])
    return ModelNotFoundError(f"{error} Known grounders: {ids}.")
