"""A chat model in training: its processor, and the adapter that is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from refiner.detectors.base import first_line, no_progress_bars
from refiner.detectors.chat.adapters import base_name, find_parts
from refiner.detectors.chat.pretrained import grow, tuned_processor
from refiner.errors import OutputError, WeightsError
from refiner.files import Json, atomic_write, dumps
from refiner.hub import Kind, resolve
from refiner.training.chat.settings import PupilSettings
from refiner.training.runs import Run

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


def load_pupil(settings: PupilSettings, run: Run, *, weights: bool = True) -> Pupil:
    """Load the base on the CPU. It gets a new adapter, or goes on with the one that it has.

    Args:
        settings: name the base.
        run: says on which device the training runs, and where the bundled models are.
        weights: False: a network without weights on the device "meta", for a dry run.

    Raises:
        ModelNotFoundError: there is no such model.
        WeightsError: it is damaged, or no chat model with images.
    """
    torch.manual_seed(settings.seed)
    device = run.processes.device
    place, tuned = find_parts(settings.base, None, partial(_find, run.weights))
    assert isinstance(place, Path)
    assert tuned is None or isinstance(tuned, Path)
    dtype = torch.float32 if device.type == "cpu" or not settings.bf16 else torch.bfloat16
    try:
        with no_progress_bars():
            processor = AutoProcessor.from_pretrained(place, padding_side="left")
            model = _network(place, dtype, weights=weights)
            if device.type == "cpu":
                model.set_attn_implementation("eager")  # faster than sdpa for short texts
            if tuned is not None:
                processor = tuned_processor(processor, tuned)
                grow(model, len(processor.tokenizer))
            if tuned is not None and weights:
                model = PeftModel.from_pretrained(model, tuned, is_trainable=True)
                model.peft_config["default"].base_model_name_or_path = str(place)  # peft looks there at checkpoints
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"The base {settings.base!r} cannot be loaded as a chat model with images ({first_line(error)}): "
            "choose another one with --base."
        ) from error
    if tuned is not None and weights:
        return Pupil(model, processor, base_name(tuned))
    return Pupil(_new(model, processor, settings), processor, settings.base if tuned is None else base_name(tuned))


def _find(bundled: Path, model: str | Path, kind: Kind) -> Path:
    name = str(model).removeprefix("micro:")
    own = bundled / name
    return own if name != str(model) and name.isidentifier() and own.is_dir() else resolve(model, kind)


def _network(folder: Path, dtype: torch.dtype, *, weights: bool) -> Any:
    if weights:
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)


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
    """Make each text one token, with the mean of its former tokens as embedding; texts that are one stay."""
    known = tokenizer.get_vocab()
    texts = tuple(text for text in dict.fromkeys(texts) if text not in known)
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    first = len(tokenizer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    grow(model, len(tokenizer))
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
    options = {"selected_adapters": ["default"], "save_embedding_layers": False} if adapted else {}
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
