"""Load chat models of transformers from folders, with an adapter of peft if there is one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from refiner.detectors.base import first_line
from refiner.detectors.chat.adapters import find_parts
from refiner.errors import WeightsError
from refiner.hub import check_opens, resolve

_WEIGHTS = "adapter_model.safetensors"


class Pretrained(NamedTuple):
    """A chat model that was loaded."""

    network: Any
    processor: Any
    """Processor of a model that takes images, tokenizer of a text-only one."""
    folders: tuple[Path, ...]
    """Where it came from: the folder of the adapter, if there is one, and that of the base model."""


def load_pretrained(
    model: str | Path, adapter: str | Path | None = None, *, dtype: torch.dtype | None = None
) -> Pretrained:
    """Load a model on the CPU; see ``LocalChat.from_pretrained``.

    Args:
        model, adapter: as for ``find_parts``.
        dtype: None for that of the checkpoint.

    Raises:
        RefinerError: the errors of ``find_parts``.
        WeightsError: the model is of another kind, incomplete or damaged, or the adapter does not fit it.
    """
    base, tuned = find_parts(model, adapter, resolve)
    assert isinstance(base, Path)
    try:
        network, processor = _load_base(base, dtype)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The chat model {str(model)!r} cannot be loaded ({str(error)[:200]!r}): download it again."
        ) from error
    if tuned is None:
        return Pretrained(network, processor, (base,))
    assert isinstance(tuned, Path)
    try:
        processor = tuned_processor(processor, tuned)
        grow(network, len(getattr(processor, "tokenizer", processor)))
        return Pretrained(_merged(network, tuned), processor, (tuned, base))
    except WeightsError:
        raise
    except Exception as error:  # damaged weights and settings may raise anything
        raise WeightsError(
            f"The adapter {str(tuned)!r} cannot be put on {str(base)!r} ({first_line(error)[:200]}): use the base "
            "model that it was trained on, or download it again."
        ) from error


def _load_base(folder: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        processor = AutoProcessor.from_pretrained(folder, padding_side="left")
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype or "auto"), processor
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        processor = AutoTokenizer.from_pretrained(folder, padding_side="left")
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto"), processor
    raise WeightsError(f"Expected a chat model, got {str(folder)!r} of type {kind!r}: choose another model.")


def tuned_processor(processor: Any, folder: Path) -> Any:
    """The processor of an adapter: its own, else that of the base model with the adapter's tokenizer and template."""
    takes_images = hasattr(processor, "tokenizer")
    if takes_images and any((folder / f"{name}_config.json").is_file() for name in ("processor", "preprocessor")):
        return AutoProcessor.from_pretrained(folder, padding_side="left")
    if (folder / "tokenizer_config.json").is_file():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side="left")
        if not takes_images:
            return tokenizer
        processor.tokenizer = tokenizer
    template = folder / "chat_template.jinja"
    if template.is_file():
        processor.chat_template = template.read_text(encoding="utf-8")
    return processor


def grow(network: Any, tokens: int) -> None:
    """Add rows to the embeddings for new tokens. They are zero until the adapter brings the trained ones."""
    rows = network.get_input_embeddings().num_embeddings
    if tokens <= rows:
        return
    network.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            layer.weight[rows:] = 0


def _merged(network: Any, folder: Path) -> Any:
    """Add the weights of an adapter to those of its base model."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    path = folder / _WEIGHTS
    if not path.is_file():
        raise WeightsError(f"The weights {str(path)!r} of the adapter are missing: save it as safetensors.")
    check_opens(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing weights are an error below
        tuned = PeftModel.from_pretrained(network, folder, torch_device="cpu")
    held = load_peft_weights(str(folder), device="cpu").keys()
    wanted, most = (get_peft_model_state_dict(tuned, save_embedding_layers=whole).keys() for whole in (False, True))
    missing, surplus = sorted(wanted - held), sorted(held - most - tuned.state_dict().keys())
    if missing or surplus:
        raise WeightsError(
            f"The weights {str(path)!r} do not fit its base model (missing {missing[:3]}, unexpected {surplus[:3]}): "
            "use the base model that it was trained on."
        )
    return tuned.merge_and_unload()
