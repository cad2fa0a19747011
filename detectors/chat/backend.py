"""The interface of chat models with images, here (``LocalChat``) or on a server (``EndpointChat``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from refiner.detectors.chat.choices import Choice
from refiner.detectors.chat.wire import Finish
from refiner.errors import ConfigError, InputError, RefinerError
from refiner.ledger import Ledger


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatRequest:
    """One request to a chat model."""

    user: str
    system: str = ""
    images: tuple[Image.Image, ...] = ()
    """Shown before the text; before the first text of all if there is a history."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns of the conversation: pairs of the user's text and the model's answer."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; it is also appended to the text. None: any text."""
    max_tokens: int = 1024
    """First limit of the answer's tokens. For a longer answer the request is repeated with a doubled limit, up to the
    limit of the backend."""
    temperature: float = 0.0
    """Sampling temperature in [0, 2]; 0 selects the most probable token each time."""
    seed: int | None = None
    """Seed of the sampling; used only for temperatures above 0."""
    marks: bool = False
    """Whether special tokens that the model writes, such as the marks of boxes, are part of the answer's text. Some
    servers leave them out. The texts of such a request may contain special tokens too, so nothing in them may come from
    users or other models."""
    thoughts: bool = False
    """Whether the element ``think`` is part of the answer's text also where a server returns it apart."""
    choice: Choice | None = None
    """If given, the reply has the probabilities of its words, where they are known."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"ChatRequest.max_tokens must be at least 1, got {self.max_tokens}.")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"ChatRequest.temperature must be in [0, 2], got {self.temperature}.")
        try:
            "".join((self.user, self.system, json.dumps(self.schema), *chain(*self.history))).encode()
        except (UnicodeEncodeError, TypeError, ValueError) as error:
            raise InputError(
                f"The text or schema of a request cannot be encoded as JSON ({error}): remove those characters or "
                "values."
            ) from error

    @property
    def text(self) -> str:
        """The user's text with the schema appended, because a server may accept a schema without following it."""
        if self.schema is None:
            return self.user
        return f"{self.user}\n\nAnswer with JSON alone, by this schema:\n{json.dumps(self.schema)}"


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """The answer of a chat model."""

    text: str
    finish: Finish
    """``length`` if the answer is cut off at the token limit."""
    prompt_tokens: int
    completion_tokens: int
    from_cache: bool = False
    attempts: int = 1
    """Number of times the model was asked for it; 0 for an answer from the cache."""
    probabilities: tuple[float, ...] | None = None
    """Of the words of ``ChatRequest.choice``, in their order, as shares of their sum; None if they are not known."""


Outcome = ChatReply | RefinerError


@runtime_checkable
class ChatBackend(Protocol):
    """A chat model on this machine or behind an endpoint."""

    @property
    def name(self) -> str:
        """Id of the model, and its revision if known."""
        ...

    @property
    def max_side(self) -> int:
        """Longest side, in pixels, of the images shown to the model; larger ones are scaled down."""
        ...

    @property
    def ledger(self) -> Ledger: ...

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """Return an answer for each request, in order; a failed request gives its error instead."""
        ...


@runtime_checkable
class Served(Protocol):
    """What is known about a chat model behind an endpoint."""

    @property
    def manner(self) -> str:
        """The settings that decide the answers beside the model and the question, in words; empty if they are usual."""
        ...

    def known_as(self) -> tuple[str, ...]:
        """Other names of the model, as the server tells them: of its folder or hub id, and of its base model."""
        ...


@runtime_checkable
class Loaded(Protocol):
    """What is known about a chat model on this machine."""

    @property
    def kind(self) -> str:
        """The ``model_type`` in its config."""
        ...

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where it was loaded from: the folder of the adapter, if there is one, and that of the model."""
        ...

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """Least and greatest number of pixels of an image that the model does not scale; None if they are not known."""
        ...
