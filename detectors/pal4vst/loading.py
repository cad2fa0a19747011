"""Load PAL4VST's TorchScript file.

A TorchScript file is a program: loading and running it executes what its author wrote. It runs in TorchScript's
interpreter and not in Python, but that is no sandbox. Load only files from people whom you trust. Pickled PyTorch
objects, which can run any Python code, are refused.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from refiner.detectors.base import placement
from refiner.detectors.pal4vst.detector import OUTPUTS, Pal4vstDetector
from refiner.detectors.weight_files import WeightFile
from refiner.errors import ConfigError, WeightsError
from refiner.hub import checksum

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

FILE: Final = WeightFile(what="PAL4VST's TorchScript file", patterns=("*.pt",), published="end2end.pt")
_PICKLE: Final = b"\x80"
"""First byte of PyTorch's files before version 1.6, which are pickles."""


def load_pal4vst(
    model: str,
    *,
    output: str = "mask",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Pal4vstDetector:
    """Load a ``Pal4vstDetector`` by the part of its id after ``pal4vst:``.

    Args:
        model: a TorchScript file, or a folder or hub id that holds one: ``end2end.pt``, else its only ``*.pt`` file.
        output: see ``Pal4vstDetector``.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file is no TorchScript program, or damaged.
        ConfigError: there is no such output.
    """
    if output not in OUTPUTS:
        raise ConfigError(f"Expected the output {' or '.join(OUTPUTS)} of PAL4VST, got {output!r}: name one of these.")
    path = FILE.find(model)
    place, kind = placement(device, dtype)
    network = _load(path, place)
    if kind is not None:
        network = network.to(kind)
    return Pal4vstDetector(network, name=f"pal4vst:{path.stem}@{checksum(path)[:12]}", output=output)


def pal4vst_needs(model: str) -> Needs:
    """List the file or hub model that ``load_pal4vst`` reads; raises its errors that are known before a download."""
    return FILE.needs(model)


def _load(path: Path, place: torch.device) -> Any:
    import torch

    _check_torchscript(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".torch.jit.load. is deprecated", category=FutureWarning)
        try:
            return torch.jit.load(str(path), map_location=place)
        except Exception as error:  # the reader can raise anything on damaged files
            first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise WeightsError(
                f"The TorchScript file {str(path)!r} cannot be loaded ({first:.200}): download it again."
            ) from error


def _check_torchscript(path: Path) -> None:
    """Check that a file is a whole TorchScript archive, before PyTorch reads it."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
        if not zipfile.is_zipfile(path):
            pickled, names = start == _PICKLE, []
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name.partition("/")[2] for name in archive.namelist()]
            pickled = "data.pkl" in names and "constants.pkl" not in names
    except Exception as error:  # the reader of archives can raise anything on damaged ones
        raise WeightsError(f"The file {str(path)!r} cannot be read ({error}): download it again.") from error
    if pickled:
        raise WeightsError(
            f"{str(path)!r} is a pickled PyTorch object, which could run any Python code: export the network with "
            "torch.jit.trace and save that."
        )
    if not {"data.pkl", "constants.pkl"} <= set(names):
        raise WeightsError(f"{str(path)!r} is not a complete TorchScript file: download it again.")
