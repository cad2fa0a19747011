"""Weights of HPS v2 in each layout they come in: published ``.pt``, open_clip folder, transformers folder.

All three end as open_clip's CLIP in float32 with its tokenizer. No random weights are drawn on the way and none of a
pickle's code is run.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from torch import Tensor

from refiner.errors import ModelNotFoundError, WeightsError
from refiner.hub import checksum, read_card, resolve, verify
from refiner.metrics.hps.transformers_layout import open_clip_config, open_clip_state

Version = Literal["v2.0", "v2.1"]

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PUBLISHED_REPOSITORY = "xswu/HPSv2"
PUBLISHED_FILES: dict[str, str] = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
"""Weights of the published versions: pickled dictionaries with the weights under ``state_dict``."""
TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights of a conversion to transformers' ``CLIPModel``, such as ``adams-story/HPSv2-hf``."""
ARCHITECTURE = "ViT-H-14"
"""What the published weights fit; a folder with a config names its own."""

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where weights lie and what network they fit."""

    file: Path
    config: Config
    """open_clip's ``model_cfg``."""
    version: str
    """The published version, or "own" where the folder does not say."""
    name: str
    """Id and revision."""


def find(model: str | Path, version: Version) -> Checkpoint:
    """Resolve an id, folder or file to weights and config; nothing is loaded yet.

    Raises:
        ModelNotFoundError: there is no such model.
        WeightsError: no weights, or a config that cannot be read.
    """
    path = _locate(model, version)
    file = _weights_file(path, version)
    published = file.name in PUBLISHED_FILES.values()
    if (file.parent / "card.json").is_file():
        name = read_card(file.parent).name
    else:
        name = f"hps:{Path(model).name}@{checksum(file)[:12]}"
    return Checkpoint(file=file, config=_read_config(file), version=version if published else "own", name=name)


def load(checkpoint: Checkpoint) -> open_clip.CLIP:
    """open_clip's CLIP with the weights, in float32 on the CPU.

    Raises:
        WeightsError: the weights are damaged or of another model.
    """
    model = _build(checkpoint)
    fill(model, checkpoint)
    return model


def fill(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights into a network that has open_clip's names, in float32.

    Raises:
        WeightsError: the weights are damaged or of another model.
    """
    state = {name: value.float() if value.is_floating_point() else value for name, value in _read(checkpoint).items()}
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise _other_weights(checkpoint.file) from error


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The folder's own tokenizer where it is in open_clip's format, else CLIP's, which comes with open_clip.

    Raises:
        WeightsError: tokenizer files that cannot be read.
    """
    folder = checkpoint.file.parent
    own = (folder / CONFIG_FILE).is_file()
    try:
        return open_clip.get_tokenizer(f"local-dir:{folder}" if own else ARCHITECTURE)
    except Exception as error:  # whatever transformers makes of damaged tokenizer files
        raise WeightsError(
            f"Expected a tokenizer in {str(folder)!r}, got one that fails with {error!r}: fetch the folder again."
        ) from error


def _locate(model: str | Path, version: Version) -> Path:
    if Path(model).is_file():
        return Path(model)
    repository, _, revision = str(model).partition("@")
    if repository == PUBLISHED_REPOSITORY and not Path(model).exists():
        return _download(PUBLISHED_FILES[version], revision or None)
    return resolve(model, "judge")


def _download(file: str, revision: str | None) -> Path:
    """One file of the published repository, which holds 12 GB in all."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(PUBLISHED_REPOSITORY, file, revision=revision))
    except (OSError, ValueError, errors.HTTPError) as error:
        raise ModelNotFoundError(
            f"Expected to fetch {file!r} of {PUBLISHED_REPOSITORY!r}, got {type(error).__name__}: "
            "check the network and the revision, or name a file that was fetched before."
        ) from error


def _weights_file(path: Path, version: Version) -> Path:
    if path.is_file():
        return path
    names = [WEIGHTS_FILE, PUBLISHED_FILES[version]]
    if (path / TRANSFORMERS_CONFIG).is_file():
        names += TRANSFORMERS_FILES
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"Expected HPS weights ({' or '.join(names)}) in {str(path)!r}, got none of these: fetch the folder again."
    )


def _read_config(file: Path) -> Config:
    path = file.parent / (TRANSFORMERS_CONFIG if file.name in TRANSFORMERS_FILES else CONFIG_FILE)
    if not path.is_file():
        config: Config = open_clip.get_model_config(ARCHITECTURE)
        config["vision_cfg"].setdefault("image_size", 224)
        return config
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        config = open_clip_config(body) if path.name == TRANSFORMERS_CONFIG else body["model_cfg"]
        config["vision_cfg"].setdefault("image_size", 224)
    except WeightsError:
        raise
    except Exception as error:  # transformers does not say what it raises on values that make no sense
        raise WeightsError(
            f"Expected an open_clip or CLIP config in {str(path)!r}, got {error!r}: fetch it again."
        ) from error
    return config


def _build(checkpoint: Checkpoint) -> open_clip.CLIP:
    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    try:
        with init_empty_weights(include_buffers=False):
            return open_clip.CLIP(**{name: checkpoint.config[name] for name in names if name in checkpoint.config})
    except Exception as error:  # open_clip does not check what a config asks for
        raise WeightsError(
            f"Expected the config of a CLIP beside {str(checkpoint.file)!r}, got one that fails with {error!r}: "
            "fetch it again."
        ) from error


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    file = checkpoint.file
    if file.suffix == ".safetensors":
        verify(file.parent)
        state = load_file(file)
    else:
        state = _read_pickle(file)
    if file.name not in TRANSFORMERS_FILES:
        return state
    try:
        return open_clip_state(state)
    except (LookupError, RuntimeError) as error:
        raise _other_weights(file) from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        body = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        state: dict[str, Tensor] = body if file.name in TRANSFORMERS_FILES else body["state_dict"]
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("values that are no tensors")
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"Expected a checkpoint with a 'state_dict' of tensors, got {str(file)!r}, which fails with "
            f"{type(error).__name__}: fetch it again."
        ) from error
    return state


def _other_weights(file: Path) -> WeightsError:
    return WeightsError(
        f"Expected weights of the CLIP that the config describes, got others in {str(file)!r}: fetch the folder again."
    )
