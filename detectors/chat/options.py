"""The options of chat models: the one place that declares, checks and documents them, for all detectors and revisers.

In an id they follow the model, such as ``vlm:MODEL@URL,timeout=60,thinking=off``. ``with_options`` adds them to an id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from refiner.detectors.chat.images import MAX_SIDE
from refiner.detectors.ids import ModelId, check_options
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "timeout": (0.001, 86_400), "attempts": (1, 100), "backoff": (0, 3600), "max_wait": (0, 86_400),
    "max_tokens": (1, 10_000_000), "concurrency": (1, 1024), "max_side": (1, 65_500), "temperature": (0, 2),
    "quality": (1, 100),
}  # fmt: skip
_FIXED: Final = ("messages", "model", "stream")
"""Fields of a request that cannot be set by ``extra_body``."""
EDIT_PREFIX: Final = "edit:"
EDIT_OPTIONS: Final = ("attempts", "cache", "concurrency", "extra_body", "max_side", "timeout")
"""The options that the ids of hosted edit models may have."""
_ADDRESS = re.compile(r"@https?://[^,+]*")
_MAX_BYTES: Final = 1_000_000
"""Largest file of options that is read."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Timeouts, retries and limits of the requests to an endpoint, and what all of them have in common.

    Raises:
        ConfigError: a value is out of its range.
    """

    timeout: float = 120.0
    """Seconds until the answer must begin, and again until it must be complete."""
    attempts: int = 5
    """Maximum number of times that a failing request is sent."""
    backoff: float = 1.0
    """Seconds before the second attempt. They double before each further attempt, and are randomly shortened to
    spread the requests."""
    max_wait: float = 60.0
    """Longest wait in seconds. If the server asks for a longer wait, the request fails at once."""
    max_tokens: int = 16_384
    """Limit up to which a request's ``max_tokens`` is doubled if an answer is cut off."""
    concurrency: int = 8
    """Maximum number of requests at the same time."""
    max_side: int = MAX_SIDE
    """Longest side, in pixels, of the images that are sent."""
    temperature: float | None = None
    """Sampling temperature of all requests, in [0, 2]; None: as each request says. If it is above 0, requests without a
    seed get the seed 0, so that their answers can be stored."""
    quality: int | None = None
    """Quality of JPEG, 1 to 100; None: images are sent as PNG, and as JPEG only if the PNG is too large."""
    thinking: bool | None = None
    """Whether the model thinks before it answers; None: as the server does by itself."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of each request, such as ``{"top_k": 1}`` for vLLM."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ConfigError(
                    f"Expected {name} of a chat model from {least:g} to {most:g}, got {value}: choose another value."
                )
        fixed = next((name for name in _FIXED if name in self.extra_body), None)
        if fixed is not None:
            raise ConfigError(f"The field {fixed!r} of a request cannot be set by extra_body: leave it out.")

    @property
    def manner(self) -> str:
        """What decides the answers beside the model and the question, in words; empty with the defaults."""
        usual = EndpointSettings()
        names = ("temperature", "thinking", "quality", "max_side", "extra_body")
        return ", ".join(
            f"{name} {json.dumps(value, default=str)}"
            for name in names
            if (value := getattr(self, name)) != getattr(usual, name)
        )


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of an id."""

    value: str
    """What stands behind the equals sign, for help texts."""
    words: str
    read: Callable[[str], Any]
    """Reads the value; raises ``ValueError`` or ``ConfigError``."""
    where: Literal["endpoint", "here", "both"] = "endpoint"
    """Whether it works for models behind an endpoint, on this machine, or both."""


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError("expected a whole number")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
        raise ValueError("expected a number")
    return float(text)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("expected on or off")
    return text == "on"


def _boxes(text: str) -> str:
    BoxFormat.parse(text)
    return text


def read_object(text: str) -> dict[str, Any]:
    """Read a JSON object, given as such or as the path of a file that holds it.

    Raises:
        ValueError: it cannot be read, or is no object.
    """
    try:
        if not text.lstrip().startswith("{"):
            path = Path(text).expanduser()
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"the file is larger than {_MAX_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    return found


OPTIONS: Final[Mapping[str, Option]] = {
    "adapter": Option(value="FOLDER", words="an adapter of peft for the model", read=str, where="here"),
    "attempts": Option(value="N", words="how often a failing request is sent (5)", read=_whole),
    "boxes": Option(
        value="unit|thousand|pixels[-yxyx]",
        words="how the model writes boxes: in shares of the sides, thousandths or pixels, and whether y is before x",
        read=_boxes,
        where="both",
    ),
    "cache": Option(value="FOLDER", words="stores the answers, by model and question", read=str),
    "concurrency": Option(value="N", words="requests at the same time (8)", read=_whole),
    "extra_body": Option(value="JSON|FILE", words="more fields of each request, as a JSON object", read=read_object),
    "max_side": Option(
        value="PIXELS", words=f"longest side of the images that the model sees ({MAX_SIDE})", read=_whole, where="both"
    ),
    "max_tokens": Option(value="N", words="longest answer (16384; 4096 here)", read=_whole, where="both"),
    "quality": Option(value="1..100", words="send images as JPEG of this quality", read=_whole),
    "temperature": Option(value="0..2", words="sampling temperature of all requests", read=_number),
    "thinking": Option(value="on|off", words="whether the model thinks before it answers", read=_switch),
    "timeout": Option(value="SECONDS", words="longest wait for an answer (120)", read=_number),
}
"""Name -> option."""
CHAT_OPTIONS: Final = tuple(OPTIONS)
"""Options of the ids of detectors with a chat model."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """The options of an id, read and checked."""

    settings: EndpointSettings
    cache: str | None = None
    adapter: str | None = None
    boxes: str | None = None
    """For ``BoxFormat.parse``."""
    limits: Mapping[str, int]
    """``max_side`` and ``max_tokens``, as far as they are given."""


def read_options(model: ModelId) -> ChatOptions:
    """Read the options of an id.

    Raises:
        ConfigError: there is no such option, its value cannot be read or is out of its range, or it does not work for
            this model.
    """
    check_options(model.options, CHAT_OPTIONS)
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if name not in model.options:
            continue
        _check_place(model, name, option)
        try:
            values[name] = option.read(model.options[name])
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"The option {name}={model.options[name]:.60} of {model.model!r} cannot be read ({error}): write "
                f"{name}={option.value}."
            ) from error
    apart = {name: values.pop(name) for name in ("cache", "adapter", "boxes") if name in values}
    limits: dict[str, int] = {name: values[name] for name in ("max_side", "max_tokens") if name in values}
    return ChatOptions(settings=EndpointSettings(**values), limits=limits, **apart)


def _check_place(model: ModelId, name: str, option: Option) -> None:
    if model.base_url is not None and option.where == "here":
        raise ConfigError(
            f"An adapter is loaded only for a model that runs here, but {model.model!r} runs at {model.base_url}: "
            "serve the adapter there and give its name as the model."
        )
    if model.base_url is None and option.where == "endpoint":
        raise ConfigError(
            f"The option {name} works only with an endpoint, but {model.model!r} runs here: remove the {name}."
        )


def with_options(detector: str, options: Mapping[str, Any]) -> str:
    """Add options to each endpoint in the id of a detector, a judge, a reviser or a hosted edit model.

    Options in the id count more. An edit model gets those of ``EDIT_OPTIONS``.

    Args:
        detector: the id, which may hold others.
        options: by name; numbers, texts, true or false for on or off, and an object for ``extra_body``.

    Raises:
        ConfigError: there is no such option, or a value cannot stand in an id.
    """
    texts = {name: _told(name, value) for name, value in options.items()}
    taken = EDIT_OPTIONS if detector.startswith(EDIT_PREFIX) else texts
    told = "".join(f",{name}={text}" for name, text in texts.items() if name in taken)
    return _ADDRESS.sub(lambda address: f"{address[0]}{told}", detector)


def _told(name: str, value: Any) -> str:
    if name not in OPTIONS:
        known = ", ".join(name for name, option in OPTIONS.items() if option.where != "here")
        raise ConfigError(f"There is no option {name!r} of endpoints: choose from {known}.")
    if isinstance(value, bool):
        return "on" if value else "off"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    if not text or ("," in text and not isinstance(value, dict)):
        raise ConfigError(f"The option {name} of endpoints is {value!r:.60}, which cannot stand in an id: change it.")
    return text
