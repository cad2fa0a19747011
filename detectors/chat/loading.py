"""Load a chat model by its id."""

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
    """Load the chat model of an id. Its option ``cache`` is the folder that stores an endpoint's answers.

    Raises:
        ConfigError: a cache is given for a model on this machine.
        RefinerError: the errors of ``EndpointChat`` and ``LocalChat.from_pretrained``.
    """
    cache = model.options.get("cache")
    if model.base_url is not None:
        return EndpointChat(model.model, base_url=model.base_url, cache=cache)
    if cache is not None:
        raise ConfigError(f"A cache works only with an endpoint, but {model.model!r} runs here: remove the cache.")
    from refiner.detectors.chat.local import LocalChat

    return LocalChat.from_pretrained(model.model, device=device, dtype=dtype)
