"""Load a chat model by its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.detectors.chat.adapters import find_parts
from refiner.detectors.chat.backend import ChatBackend
from refiner.detectors.chat.endpoint import EndpointChat
from refiner.detectors.chat.options import CHAT_OPTIONS, ChatOptions, read_options
from refiner.detectors.ids import ModelId
from refiner.hub import locate

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs


def load_chat(
    model: ModelId, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ChatBackend:
    """Load the chat model of an id, which may have the options of ``refiner.detectors.chat.options``.

    Raises:
        RefinerError: the errors of ``read_options``, ``EndpointChat`` and ``LocalChat.from_pretrained``.
    """
    options = read_options(model)
    if model.base_url is not None:
        return _endpoint(model, options)
    from refiner.detectors.chat.local import LocalChat

    return LocalChat.from_pretrained(model.model, options.adapter, device=device, dtype=dtype, **options.limits)


def chat_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_chat`` reads; raises its errors that are known without a download."""
    options = read_options(model)
    if model.base_url is not None:
        _endpoint(model, options).close()
        return []
    base, adapter = find_parts(model.model, options.adapter, locate)
    return [base] if adapter is None else [base, adapter]


def chat_part(model: ModelId, default: str) -> ModelId:
    """The id of the chat model in that of a detector: without the options of the detector, and never empty."""
    options = {name: value for name, value in model.options.items() if name in CHAT_OPTIONS}
    return replace(model, model=model.model or default, options=options)


def chat_id(model: str, base_url: str | None, options: Mapping[str, int | str | Path | None]) -> ModelId:
    """The id of a chat model from the arguments of a function; options that are None are left out."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    return ModelId(model=model, base_url=base_url, options=given)


def _endpoint(model: ModelId, options: ChatOptions) -> EndpointChat:
    return EndpointChat(model.model, base_url=model.base_url, cache=options.cache, settings=options.settings)
