"""Load a chat model by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.chat.adapters import find_parts
from refiner.detectors.chat.backend import ChatBackend
from refiner.detectors.chat.endpoint import EndpointChat
from refiner.detectors.ids import ModelId
from refiner.errors import ConfigError
from refiner.hub import locate

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs


def load_chat(
    model: ModelId, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ChatBackend:
    """Load the chat model of an id.

    Its option ``cache`` is the folder that stores an endpoint's answers. Its option ``adapter`` is an adapter of peft
    for a model on this machine.

    Raises:
        ConfigError: a cache is given for a model on this machine, or an adapter for an endpoint.
        RefinerError: the errors of ``EndpointChat`` and ``LocalChat.from_pretrained``.
    """
    _check_options(model)
    if model.base_url is not None:
        return EndpointChat(model.model, base_url=model.base_url, cache=model.options.get("cache"))
    from refiner.detectors.chat.local import LocalChat

    return LocalChat.from_pretrained(model.model, model.options.get("adapter"), device=device, dtype=dtype)


def chat_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_chat`` reads; raises its errors that are known without a download."""
    _check_options(model)
    if model.base_url is not None:
        EndpointChat(model.model, base_url=model.base_url, cache=model.options.get("cache")).close()
        return []
    base, adapter = find_parts(model.model, model.options.get("adapter"), locate)
    return [base] if adapter is None else [base, adapter]


def _check_options(model: ModelId) -> None:
    if model.base_url is not None and "adapter" in model.options:
        raise ConfigError(
            f"An adapter is loaded only for a model that runs here, but {model.model!r} runs at {model.base_url}: "
            "serve the adapter there and give its name as the model."
        )
    if model.base_url is None and "cache" in model.options:
        raise ConfigError(f"A cache works only with an endpoint, but {model.model!r} runs here: remove the cache.")
