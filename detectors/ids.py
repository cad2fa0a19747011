"""Ids of models: ``<folder or hub id>`` or ``<model>@<base url>``, optionally followed by ``,option=value``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from refiner.errors import ConfigError

_OPTION = re.compile(r",(\w+)=(\{.*\}|[^,]*)$", re.DOTALL)
"""The last option of an id; a JSON object may have commas."""


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """The parts of an id, without the prefix of the family."""

    model: str
    """Folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model."""
    base_url: str | None = None
    """Address of the endpoint; None: the model runs on this machine."""
    options: Mapping[str, str] = field(default_factory=dict)


def split_options(text: str, only: Sequence[str] | None = None) -> tuple[str, dict[str, str]]:
    """Split an id into the id without options, and the options. If an option is repeated, the last value counts.

    ``only`` ends the search at the first option, from the end, that is not in it; None: all options are split off.
    """
    options: dict[str, str] = {}
    while (match := _OPTION.search(text)) and (only is None or match[1] in only):
        options.setdefault(match[1], match[2])
        text = text[: match.start()]
    return text, options


def take_option(text: str, name: str) -> tuple[str, str | None]:
    """Take one option out of an id: the id without it, and its value; None if it is not there."""
    rest, options = split_options(text)
    if name not in options:
        return text, None
    kept = [f",{option}={value}" for option, value in options.items() if option != name]
    return rest + "".join(reversed(kept)), options[name]


def check_options(options: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise ``ConfigError`` if an option is unknown or empty."""
    for option, value in options.items():
        if option not in known or not value:
            names = ", ".join(f"{each}=..." for each in sorted(known)) or "none"
            raise ConfigError(
                f"Expected the options {names} in the id of a model, got {option}={value!r}: remove it from the id."
            )


def parse_id(text: str, known: Sequence[str]) -> ModelId:
    """Parse an id. An ``@`` before ``http`` begins the address of an endpoint, any other ``@`` begins a revision.

    Raises:
        ConfigError: an option is not in ``known``, or is empty.
    """
    rest, options = split_options(text)
    check_options(options, known)
    model, address, place = rest.partition("@http")
    return ModelId(model=model, base_url=f"http{place}" if address else None, options=options)


def is_elsewhere(text: str) -> bool:
    """Whether an id, or one of the ids joined in it, names an endpoint that is not on this machine."""
    hosts = [urlsplit(f"http{place}").hostname for place in text.split("@http")[1:]]
    return any(host not in ("127.0.0.1", "localhost", "::1") for host in hosts)
