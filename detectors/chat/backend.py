"""Chat models that look at images, wherever they run: what they are asked, what they answer, what they cost.

``refiner.detectors.chat.endpoint.EndpointChat`` asks a server, ``refiner.detectors.chat.local.LocalChat`` runs a model
here. Both get the same text and the same images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from refiner.detectors.chat.wire import Finish
from refiner.errors import ConfigError, InputError, RefinerError


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatRequest:
    """One question to a chat model."""

    user: str
    system: str = ""
    images: tuple[Image.Image, ...] = ()
    """Shown before the text."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; it is also put behind the text. None: the answer is free."""
    max_tokens: int = 1024
    """Tokens to write at first; a longer answer is asked for again with twice as many, up to the model's limit."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int | None = None
    """For temperatures above 0."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"Expected ChatRequest.max_tokens of at least 1, got {self.max_tokens}.")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"Expected ChatRequest.temperature in [0, 2], got {self.temperature}.")
        try:
            (self.user + self.system + json.dumps(self.schema)).encode()
        except (UnicodeEncodeError, TypeError, ValueError) as error:
            raise InputError(f"Expected text and a schema that JSON can carry, got {error}: clean it first.") from error

    @property
    def text(self) -> str:
        """The user's text, and the schema behind it: servers may take a schema and not keep to it."""
        if self.schema is None:
            return self.user
        return f"{self.user}\n\nAnswer with JSON alone, by this schema:\n{json.dumps(self.schema)}"


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """What a chat model answered."""

    text: str
    finish: Finish
    """``length`` where the answer breaks off at the model's limit."""
    prompt_tokens: int
    completion_tokens: int
    from_cache: bool = False
    attempts: int = 1
    """Times that the model was asked for it; 0 from the cache."""


Outcome = ChatReply | RefinerError


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What a backend has cost since it was made."""

    calls: int = 0
    """Answers asked of the model, failed ones included."""
    retries: int = 0
    """Of these, repetitions of one that failed."""
    cached: int = 0
    """Answers that came from the cache."""
    failed: int = 0
    """Requests that got no answer in the end."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Summed over the calls; those that run at the same time count each."""
    pictures: int = 0
    """Pictures scaled and encoded."""

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@runtime_checkable
class ChatBackend(Protocol):
    """A chat model, wherever it runs."""

    @property
    def name(self) -> str:
        """Id of the model, and revision where it is known."""
        ...

    @property
    def max_side(self) -> int:
        """Longest side, in pixels, of the pictures that the model is shown; larger ones are scaled down."""
        ...

    @property
    def ledger(self) -> Ledger: ...

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """An answer for each request, in order; an error in the place of those that failed."""
        ...
