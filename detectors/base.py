"""Folders of transformers to models: what the loaders of several detectors share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import logging

from refiner.errors import WeightsError
from refiner.hub import verify


def load_folder(
    folder: Path, model_class: Any, processor_class: Any, kinds: Collection[str], dtype: torch.dtype | None
) -> tuple[Any, Any, str]:
    """Model, processor and ``model_type`` of a folder.

    Args:
        folder: what ``save_pretrained`` of model and processor wrote.
        model_class: an Auto class, and ``processor_class`` too.
        kinds: the model types that are wanted.
        dtype: None keeps the checkpoint's.

    Raises:
        WeightsError: the folder is of another kind, incomplete or damaged.
    """
    with no_progress_bars():
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(
                f"Expected a transformers folder in {str(folder)!r}, got {_first_line(error)}: fetch it again."
            ) from error
        if kind not in kinds:
            raise WeightsError(
                f"Expected a model of type {', '.join(kinds)} in {str(folder)!r}, got {kind!r}: name another folder."
            )
        verify(folder)
        try:
            processor = processor_class.from_pretrained(folder)
            model, info = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(
                f"Expected a whole {kind} folder in {str(folder)!r}, got {_first_line(error)}: fetch it again."
            ) from error
    check_complete(folder, info)
    return model, processor, kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing them while weights are loaded."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_complete(path: Path, info: Mapping[str, Any]) -> None:
    """Refuse what ``from_pretrained`` would fill up with random weights.

    Raises:
        WeightsError: weights are missing, surplus or of another shape.
    """
    missing, surplus = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or surplus or info.get("mismatched_keys"):
        raise WeightsError(
            f"Expected all of the model's weights in {str(path)!r} and no others, got missing {missing[:3]} and "
            f"surplus {surplus[:3]}: fetch it again."
        )
