"""A chat model in training: its processor, and the adapter that is trained on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from refiner.detectors.base import first_line, no_progress_bars
from refiner.errors import OutputError, WeightsError
from refiner.files import Json, atomic_write, dumps
from refiner.hub import resolve
from refiner.training.chat.settings import PupilSettings

ADAPTER = "adapter_config.json"
_VISION = r".*(visual|vision|merger|multi_modal_projector).*"
"""Names of the modules of the vision tower, and of what connects it with the language model."""


class Pupil(NamedTuple):
    """A model in training."""

    model: Any
    """The chat model, or peft's model around it."""
    processor: Any
    base: str
    """Folder or id of the chat model without its adapter."""

    @property
    def kind(self) -> str:
        """The chat model's type, such as ``qwen3_vl``."""
        return str(self.model.config.model_type)


def load_pupil(settings: PupilSettings, device: torch.device, *, weights: bool = True) -> Pupil:
    """Load the base on the CPU. It gets a new adapter, or goes on with the one that it has.

    Args:
        settings: name the base.
        device: on which the training runs.
        weights: False: a network without weights on the device "meta", for a dry run.

    Raises:
        ModelNotFoundError: there is no such model.
        WeightsError: it is damaged, or no chat model with images.
    """
    torch.manual_seed(settings.seed)
    folder = resolve(settings.base, "detector")
    adapted = (folder / ADAPTER).exists()
    base = adapter_base(folder) if adapted else settings.base
    dtype = torch.float32 if device.type == "cpu" or not settings.bf16 else torch.bfloat16
    try:
        with no_progress_bars():
            place = resolve(base, "detector")
            holder = folder if (folder / "tokenizer_config.json").exists() else place
            processor = AutoProcessor.from_pretrained(holder, padding_side="left")
            model = _network(place, dtype, weights=weights)
            if device.type == "cpu":
                model.set_attn_implementation("eager")  # faster than sdpa for short texts
            if len(processor.tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
            if adapted and weights:
                model = PeftModel.from_pretrained(model, folder, is_trainable=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"The base {settings.base!r} cannot be loaded as a chat model with images ({first_line(error)}): "
            "choose another one with --base."
        ) from error
    return Pupil(model if adapted and weights else _new(model, processor, settings), processor, base)


def _network(folder: Path, dtype: torch.dtype, *, weights: bool) -> Any:
    if weights:
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)


def adapter_base(folder: Path) -> str:
    """The id of the model that an adapter was trained on.

    Raises:
        WeightsError: the adapter does not say it.
    """
    try:
        return str(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"The adapter {str(folder)!r} names no base model ({error!r}): train it again.") from error


def _new(model: Any, processor: Any, settings: PupilSettings) -> Any:
    """Add new tokens and a new adapter to a chat model; with a rank of 0, prepare it to be trained itself."""
    _add_tokens(model, processor.tokenizer, settings.tokens)
    if not settings.rank:
        if not settings.vision:
            for name, module in model.named_modules():
                if "visual" in name or "vision" in name:
                    module.requires_grad_(False)
        return model
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        exclude_modules=None if settings.vision else _VISION,
        modules_to_save=["embed_tokens"] if settings.tokens else None,
        ensure_weight_tying=bool(settings.tokens and model.config.get_text_config().tie_word_embeddings),
    )
    return get_peft_model(model, config)


@torch.no_grad()
def _add_tokens(model: Any, tokenizer: Any, texts: tuple[str, ...]) -> None:
    """Make each text one token, whose embedding is the mean of its former tokens'."""
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    first = len(tokenizer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for place, ids in enumerate(pieces):
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
            layer.weight[first + place] = layer.weight[ids].mean(0)


def save_pupil(pupil: Pupil, folder: Path, dtype: torch.dtype, notes: Mapping[str, Json]) -> None:
    """Write the adapter, or the whole model if it has none, with its processor, and JSON files of these names.

    Raises:
        OutputError: the folder cannot be written.
    """
    adapted = isinstance(pupil.model, PeftModel)
    if adapted:
        pupil.model.peft_config["default"].base_model_name_or_path = pupil.base
    options = {"selected_adapters": ["default"]} if adapted else {}
    _write(pupil.model, pupil.processor, folder, dtype, notes, **options)


def save_merged(pupil: Pupil, folder: Path, dtype: torch.dtype, notes: Mapping[str, Json]) -> None:
    """Write the whole model with its adapter merged into the weights; the pupil cannot be trained further then.

    Raises:
        OutputError: the folder cannot be written.
    """
    _write(pupil.model.merge_and_unload(), pupil.processor, folder, dtype, notes)


def _write(
    model: Any, processor: Any, folder: Path, dtype: torch.dtype, notes: Mapping[str, Json], **options: Any
) -> None:
    try:
        model.to(dtype).save_pretrained(folder, **options)
        processor.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's model card, which holds no facts
        for name, note in notes.items():
            atomic_write(folder / name, dumps(note) + "\n")
    except (OSError, SafetensorError) as error:
        raise OutputError(f"The model cannot be written to {str(folder)!r} ({error}): free some space.") from error
