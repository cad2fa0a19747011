"""Weights of HPS v2 in each layout: published ``.pt``, open_clip folder, transformers folder.

All three become open_clip's CLIP in float32 with its tokenizer. No weights are initialised at random first, and no code
of a pickle is run.
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
from refiner.reading import reason_of

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
"""The network of the published weights; a folder with a config has its own."""

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on disk and their network."""

    file: Path
    config: Config
    """open_clip's ``model_cfg``."""
    version: str
    """The published version, or "own" if the folder does not give it."""
    name: str
    """Id and revision."""


def find(model: str | Path, version: Version) -> Checkpoint:
    """Resolve an id, folder or file to weights and config; the weights are not loaded.

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
    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    try:
        with init_empty_weights(include_buffers=False):
            model = open_clip.CLIP(**{name: checkpoint.config[name] for name in names if name in checkpoint.config})
    except Exception as error:  # open_clip does not check a config
        raise WeightsError(
            f"The config beside {str(checkpoint.file)!r} does not describe a CLIP ({reason_of(error)}): download it "
            "again."
        ) from error
    fill(model, checkpoint)
    return model


def fill(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load the weights into a network with open_clip's names, in float32.

    Raises:
        WeightsError: the weights are damaged or of another model.
    """
    state = _read(checkpoint.file)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise _other_weights(checkpoint.file) from error


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a folder in open_clip's format, else CLIP's, which comes with open_clip.

    Raises:
        WeightsError: tokenizer files that cannot be read.
    """
    folder = checkpoint.file.parent
    own = (folder / CONFIG_FILE).is_file()
    try:
        return open_clip.get_tokenizer(f"local-dir:{folder}" if own else ARCHITECTURE)
    except Exception as error:  # transformers can raise anything on damaged tokenizer files
        raise WeightsError(
            f"Cannot load the tokenizer in {str(folder)!r} ({reason_of(error)}): download the folder again."
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
            f"Cannot download {file!r} of {PUBLISHED_REPOSITORY!r} ({type(error).__name__}): check the network and the "
            "revision, or name a local file."
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
    raise WeightsError(f"{str(path)!r} holds no HPS weights ({' or '.join(names)}): download the folder again.")


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
    except Exception as error:  # transformers can raise anything on wrong values
        raise WeightsError(
            f"{str(path)!r} is not a config of open_clip or CLIP ({reason_of(error)}): download it again."
        ) from error
    return config


def _read(file: Path) -> dict[str, Tensor]:
    """The weights of a file under open_clip's names."""
    converted = file.name in TRANSFORMERS_FILES
    if file.suffix == ".safetensors":
        verify(file.parent)
        state = load_file(file)
    else:
        try:
            body = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
            state = body if converted else body["state_dict"]
            if not all(isinstance(value, Tensor) for value in state.values()):
                raise TypeError("values that are not tensors")
        except Exception as error:  # unpickling damaged bytes can raise anything
            raise WeightsError(
                f"{str(file)!r} is not a checkpoint with a 'state_dict' of tensors ({type(error).__name__}): download "
                "it again."
            ) from error
    try:
        return open_clip_state(state) if converted else state
    except (LookupError, RuntimeError) as error:
        raise _other_weights(file) from error


def _other_weights(file: Path) -> WeightsError:
    return WeightsError(
        f"The weights in {str(file)!r} do not fit the CLIP that the config describes: download the folder again."
    )
