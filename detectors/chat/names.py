"""Names of chat models: ``<folder or hub id>``, or ``<model>@<base url>``, with ``,option=value`` behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from refiner.detectors.chat.endpoint import ChatBackend, EndpointChat
from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

_OPTION = re.compile(r",(\w+)=([^,]*)$")


@dataclass(frozen=True, kw_only=True)
class ChatName:
    """What a name says."""

    model: str
    """Folder or hub id with an optional ``@revision``; with ``base_url``, what the server calls the model."""
    base_url: str | None = None
    """None: the model runs here."""
    options: Mapping[str, str] = field(default_factory=dict)


def parse_name(name: str, known: Sequence[str]) -> ChatName:
    """Read a name; an ``@`` before http begins the address of an endpoint, any other a revision.

    Raises:
        ConfigError: an option that is not ``known``, or is empty.
    """
    options: dict[str, str] = {}
    while match := _OPTION.search(name):
        option, value = match.groups()
        if option not in known or not value:
            raise ConfigError(
                f"Expected the options {', '.join(f'{each}=...' for each in known)} in the id of a chat model, "
                f"got {option}={value!r}: leave it out."
            )
        options.setdefault(option, value)
        name = name[: match.start()]
    model, address, place = name.partition("@http")
    return ChatName(model=model, base_url=f"http{place}" if address else None, options=options)


def load_chat(
    name: ChatName, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ChatBackend:
    """The chat model of a name; its option ``cache`` is the folder that keeps an endpoint's answers.

    Args:
        name: what to load.
        device: None takes CUDA where there is one; for models here alone, as is ``dtype``.
        dtype: None takes float32 on a CPU, elsewhere the checkpoint's own.

    Raises:
        ModelNotFoundError, WeightsError: an unknown or damaged model.
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: an address with a key in it, or a cache for a model that runs here.
    """
    cache = name.options.get("cache")
    if name.base_url is not None:
        return EndpointChat(name.model, base_url=name.base_url, cache=cache)
    if cache is not None:
        raise ConfigError(f"Expected a cache with an endpoint alone, got one with {name.model!r}: leave it out.")
    from refiner.detectors.chat.local import LocalChat

    return LocalChat.from_pretrained(name.model, device=device, dtype=dtype)


def is_elsewhere(name: str) -> bool:
    """Whether an id, or one of those that it joins, names an endpoint that is not on this machine."""
    hosts = [urlsplit(f"http{place}").hostname for place in name.split("@http")[1:]]
    return any(host not in ("127.0.0.1", "localhost", "::1") for host in hosts)
