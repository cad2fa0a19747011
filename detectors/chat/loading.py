"""A chat model by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.chat.backend import ChatBackend
from refiner.detectors.chat.endpoint import EndpointChat
from refiner.detectors.ids import ModelId
from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch


def load_chat(
    model: ModelId, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ChatBackend:
    """The chat model of an id; its option ``cache`` is the folder that keeps an endpoint's answers.

    Args:
        model: what to load.
        device: None takes CUDA where there is one; for models here alone, as is ``dtype``.
        dtype: None takes float32 on a CPU, elsewhere the checkpoint's own.

    Raises:
        ModelNotFoundError, WeightsError: an unknown or damaged model.
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: an address with a key in it, or a cache for a model that runs here.
    """
    cache = model.options.get("cache")
    if model.base_url is not None:
        return EndpointChat(model.model, base_url=model.base_url, cache=cache)
    if cache is not None:
        raise ConfigError(f"Expected a cache with an endpoint alone, got one with {model.model!r}: leave it out.")
    from refiner.detectors.chat.local import LocalChat

    return LocalChat.from_pretrained(model.model, device=device, dtype=dtype)
