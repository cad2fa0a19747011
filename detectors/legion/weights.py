"""The weight files of a model folder: which there are, and reading them one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from refiner.detectors.base import first_line
from refiner.errors import WeightsError
from refiner.reading import reason_of

_KINDS = (
    ("model.safetensors.index.json", "model*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
)
"""Name of the index, and pattern of the weight files, in order of preference."""
_SHARD = re.compile(r"^(.+-)(\d+)-of-(\d+)(\.\w+)$")


class WeightFiles:
    """The weight files of a folder: one file, or several with or without an index.

    Args:
        folder: an existing folder.

    Raises:
        WeightsError: there are no weights, a file is missing, or the index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.paths: list[Path]
        index, self.paths = next(
            ((folder / index, found) for index, pattern in _KINDS if (found := _found(folder, index, pattern))),
            (None, []),
        )
        if not self.paths:
            raise WeightsError(
                f"{str(folder)!r} holds no weights (model*.safetensors or pytorch_model*.bin): download the folder "
                "again."
            )
        self._promised = _weight_map(index) if index is not None and index.is_file() else {}

    def each(self) -> Iterator[dict[str, Tensor]]:
        """Yield the weights of one file after the other; they are mapped into memory, not read.

        Raises:
            WeightsError: a file is damaged, holds something other than tensors, or lacks a weight of the index.
        """
        for path in self.paths:
            weights = _read(path)
            lost = sorted(key for key, file in self._promised.items() if file == path.name and key not in weights)
            if lost:
                raise WeightsError(
                    f"The weight file {str(path)!r} lacks {lost[0]!r}, which its index names: download it again."
                )
            yield weights


def _found(folder: Path, index: str, pattern: str) -> list[Path]:
    """List the files in order; empty if the folder has neither the index nor such files."""
    if (folder / index).is_file():
        paths = [folder / name for name in sorted(set(_weight_map(folder / index).values()))]
    else:
        paths = sorted(folder.glob(pattern))
        shards = [match for path in paths if (match := _SHARD.match(path.name))]
        paths += [
            folder / f"{shard[1]}{number:0{len(shard[2])}d}-of-{shard[3]}{shard[4]}"
            for shard in shards[:1]
            for number in range(1, min(int(shard[3]), 10_000) + 1)
            if not any(int(other[2]) == number for other in shards)
        ]
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"The weight file {str(path)!r} is missing: download it again.")
    return paths


def _weight_map(index: Path) -> dict[str, str]:
    """Read weight -> file from an index; the files are names without a folder."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not found:
            raise ValueError("expected an object that names files")
        for file in found.values():
            if not isinstance(file, str) or Path(file).name != file:
                raise ValueError(f"{file!r:.80} is no name of a file")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"The weight index {str(index)!r} cannot be read ({reason_of(error)}): download it again."
        ) from error
    return found


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        weights = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        )
        if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
            raise ValueError("it holds something other than named tensors")
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"The weight file {str(path)!r} cannot be read ({first_line(error):.200}): download it again."
        ) from error
    return weights
