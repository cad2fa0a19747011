"""Ids of models: ``<folder or hub id>``, or ``<model>@<base url>``, with ``,option=value`` behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from refiner.errors import ConfigError

_OPTION = re.compile(r",(\w+)=([^,]*)$")


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """What an id says, without the family before it."""

    model: str
    """Folder or hub id with an optional ``@revision``; with ``base_url``, what the server calls the model."""
    base_url: str | None = None
    """None: the model runs here."""
    options: Mapping[str, str] = field(default_factory=dict)


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """An id without its options, and the options; of an option that is given twice the last one counts."""
    options: dict[str, str] = {}
    while match := _OPTION.search(text):
        options.setdefault(match[1], match[2])
        text = text[: match.start()]
    return text, options


def check_options(options: Mapping[str, str], known: Sequence[str]) -> None:
    """Do nothing where all options are known and have a value.

    Raises:
        ConfigError: one is unknown or empty.
    """
    for option, value in options.items():
        if option not in known or not value:
            raise ConfigError(
                f"Expected the options {', '.join(f'{each}=...' for each in known) or 'none'} in the id of a model, "
                f"got {option}={value!r}: leave it out."
            )


def parse_id(text: str, known: Sequence[str]) -> ModelId:
    """Read an id; an ``@`` before http begins the address of an endpoint, any other a revision.

    Raises:
        ConfigError: an option that is not ``known``, or is empty.
    """
    rest, options = split_options(text)
    check_options(options, known)
    model, address, place = rest.partition("@http")
    return ModelId(model=model, base_url=f"http{place}" if address else None, options=options)


def is_elsewhere(text: str) -> bool:
    """Whether an id, or one of those that it joins, names an endpoint that is not on this machine."""
    hosts = [urlsplit(f"http{place}").hostname for place in text.split("@http")[1:]]
    return any(host not in ("127.0.0.1", "localhost", "::1") for host in hosts)
