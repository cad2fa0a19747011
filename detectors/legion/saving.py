"""Convert a folder of the published layout to refiner's layout, in bounded memory."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from refiner.detectors.base import no_progress_bars, read_config
from refiner.detectors.legion.layouts import is_original, is_ours
from refiner.detectors.legion.published import PublishedFolder, check_merged
from refiner.errors import OutputError, WeightsError
from refiner.files import atomic_write, dumps

MOST_BYTES = 2 * 1024**3
"""Maximum size of a weight file; a larger weight has a file of its own."""


def convert_folder(source: Path, target: Path, *, most_bytes: int = MOST_BYTES) -> Path:
    """Write the weights of a folder in the published layout as safetensors in refiner's layout.

    One part of at most ``most_bytes`` is in memory at a time. Everything is written to a hidden folder beside the
    target, which gets its name when it is complete. So an interrupted run leaves no folder that can be loaded.

    Args:
        source: an existing folder.
        target: a folder that does not exist yet, or is empty.
        most_bytes: maximum size of a weight file.

    Returns:
        The target.

    Raises:
        WeightsError: the source is of another kind, incomplete or damaged.
        OutputError: the target is not empty, or cannot be written.
    """
    check_merged(source)
    config = read_config(source)
    if not is_original(config):
        kind = "refiner's layout already" if is_ours(config) else f"a model of type {config.get('model_type')!r}"
        raise WeightsError(
            f"Expected the published layout of LEGION in {str(source)!r}, got {kind}: choose another folder."
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"The folder {str(target)!r} is not empty: choose one that does not exist yet.")
    part = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir(parents=True)
        with no_progress_bars():
            _write(PublishedFolder(source), part, most_bytes)
        os.replace(part, target)
    except OSError as error:
        raise OutputError(
            f"Cannot write the folder {str(target)!r} ({(error.strerror or str(error)).lower()}): choose a place on a "
            "disk with free space."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write(found: PublishedFolder, folder: Path, most_bytes: int) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    parts = sum(1 for _ in _parts(_shapes(found), most_bytes))
    places, total = dict[str, str](), 0
    for number, weights in enumerate(_parts(found.each(), most_bytes), start=1):
        file = f"model-{number:05d}-of-{parts:05d}.safetensors"
        held = {name: _as_saved(weight, found.dtype) for name, weight in weights.items()}
        try:
            save_file(held, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        places |= dict.fromkeys(held, file)
        total += sum(weight.nbytes for weight in held.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    atomic_write(folder / "model.safetensors.index.json", dumps(index) + "\n")
    found.tokenizer.save_pretrained(folder)
    found.clip_processor.save_pretrained(folder / "clip")
    found.sam_processor.save_pretrained(folder / "sam")
    found.config.dtype = found.dtype
    found.config.architectures = ["LegionModel"]
    found.config.save_pretrained(folder)


def _as_saved(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight.to(dtype) if weight.is_floating_point() else weight).contiguous()


def _shapes(found: PublishedFolder) -> Iterator[dict[str, Tensor]]:
    """Yield the same as ``found.each``, without data."""
    return ({name: weight.to("meta") for name, weight in weights.items()} for weights in found.each())


def _parts(files: Iterator[Mapping[str, Tensor]], most_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Split the weights of each file into parts of at most ``most_bytes``, in the order of their names."""
    for weights in files:
        part, size = dict[str, Tensor](), 0
        for name in sorted(weights):
            if part and size + weights[name].nbytes > most_bytes:
                yield part
                part, size = {}, 0
            part[name] = weights[name]
            size += weights[name].nbytes
        if part:
            yield part
