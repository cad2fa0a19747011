"""Chat models behind an OpenAI-compatible endpoint (vLLM, ``transformers serve``, hosted services)."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Outcome
from refiner.detectors.chat.cache import AnswerCache, cache_key
from refiner.detectors.chat.choices import LISTED
from refiner.detectors.chat.images import MAX_SIDE, Pictures
from refiner.detectors.chat.wire import (
    Answered,
    Dialect,
    FaultError,
    Wanted,
    hide_in_logs,
    lower_rung,
    messages,
    scrubber,
    send,
)
from refiner.detectors.reading.loose_json import read_document
from refiner.errors import (
    ConfigError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    RefinerError,
    UnreadableOutputError,
)

_EXTENSIONS = ("skip_special_tokens",)
"""Fields of vLLM that OpenAI's protocol does not have."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Timeouts, retries and limits of the requests to an endpoint."""

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
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of each request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}`` for vLLM."""

    def __post_init__(self) -> None:
        for name in ("timeout", "attempts", "max_tokens", "concurrency", "max_side"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"EndpointSettings.{name} must be above 0, got {getattr(self, name)}.")
        for name in ("backoff", "max_wait"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"EndpointSettings.{name} must be at least 0, got {getattr(self, name)}.")


class EndpointChat:
    """A chat model behind an OpenAI-compatible endpoint; a ``ChatBackend``.

    A schema is first sent as a strict schema. If the server refuses that, JSON mode is used, and then only the text of
    the request. What worked is used for later requests. The same holds for the system turn, which some models refuse,
    and for the fields that ask for special tokens and for probabilities: without the first, answers have no marks,
    without the second, ``ChatReply.probabilities`` is None. Failed connections, late or broken answers, and the
    statuses 429 and 5xx are tried again. After many requests in a row without an answer (three times
    ``settings.attempts``), each further request is sent only once, until one is answered.

    Args:
        model: the server's name of the model.
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``OPENAI_BASE_URL``, else the hosted service.
        key_variable: environment variable that holds the key. If it is not set, a placeholder is sent.
        cache: folder that stores answers; None stores nothing. Answers that are sampled without a seed, are cut off or
            lack a required field of the schema are not stored.
        settings: timeouts, retries and limits.

    Raises:
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: the address contains a key, or the key has characters that an HTTP header cannot hold.
        OutputError: the cache cannot be written.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("A chat model behind an endpoint", "openai", "chat") from error
        self.settings = settings or EndpointSettings()
        self.name, self.max_side, self.key_variable = model, self.settings.max_side, key_variable
        key = _key(key_variable)
        self._scrub = scrubber(key)
        self.base_url = _check_address(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        patient = self.settings.timeout
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=self.base_url,
            max_retries=0,
            timeout=patient,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, timeout=patient),  # redirects leak the key
        )
        weakref.finalize(self, self._client.close)
        weakref.finalize(self, hide_in_logs(self._scrub))
        self._cache = None if cache is None else AnswerCache(cache)
        self._pictures = Pictures(self.max_side)
        self._dialect = Dialect()
        self._tally = _Tally()
        self._slots = threading.BoundedSemaphore(self.settings.concurrency)
        self._unanswered = 0
        self._chance = random.Random()

    def __repr__(self) -> str:
        return f"EndpointChat({self.name!r}, base_url={self.base_url!r}, key_variable={self.key_variable!r})"

    @property
    def concurrency(self) -> int:
        """Maximum number of requests at the same time, from all threads together."""
        return self.settings.concurrency

    @property
    def ledger(self) -> Ledger:
        """The costs so far."""
        return replace(self._tally.total, pictures=self._pictures.encoded)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """See ``ChatBackend.complete``; requests run in parallel.

        The errors are ``ModelError`` (no answer, or a refusal), ``ConfigError`` (the
        key is not accepted), ``ModelNotFoundError`` (the server does not have the model) and ``InputError`` (a damaged
        image).
        """
        stop = threading.Event()
        with ThreadPoolExecutor(max(1, min(self.settings.concurrency, len(requests)))) as pool:
            try:
                return list(pool.map(lambda request: self._outcome(request, stop), requests))
            finally:
                stop.set()  # after an interrupt, end the waits between attempts
                pool.shutdown(cancel_futures=True)

    def _outcome(self, request: ChatRequest, stop: threading.Event) -> Outcome:
        try:
            digests = [self._pictures.digest(image) for image in request.images]
            key = self._cache_key(request, digests)
            known = self._cache.get(key) if self._cache and key else None
            if known is not None:
                self._tally.add(cached=1)
                return _reply(known, attempts=0)
            urls = [self._pictures.url(*pair) for pair in zip(digests, request.images, strict=True)]
            answered, attempts = self._ask(request, urls, stop)
        except RefinerError as error:
            self._tally.add(failed=1)
            return error
        if self._cache and key and _worth_keeping(answered, request):
            self._cache.put(key, answered)
        return _reply(answered, attempts)

    def _cache_key(self, request: ChatRequest, digests: Sequence[str]) -> str | None:
        """Make the key of a request in the cache; None if its answer is random and must not be stored."""
        if request.temperature > 0 and request.seed is None:
            return None
        question = {
            "model": self.name, "base_url": self.base_url, "system": request.system, "text": request.text,
            "images": list(digests), "max_side": self.max_side, "schema": request.schema,
            "max_tokens": [request.max_tokens, self.settings.max_tokens], "temperature": request.temperature,
            "seed": request.seed, "extra_body": dict(self.settings.extra_body),
        }  # fmt: skip
        question |= {name: True for name in ("marks", "thoughts") if getattr(request, name)}
        if request.choice is not None:
            question["choice"] = list(request.choice)
        if request.history:
            question["history"] = list(request.history)
        return cache_key(question)

    def _ask(self, request: ChatRequest, urls: Sequence[str], stop: threading.Event) -> tuple[Answered, int]:
        """Return the answer, and how often the model was asked for it."""
        rung = self._dialect.rung(request.schema)
        limit, attempts, failures = min(request.max_tokens, self.settings.max_tokens), 0, 0
        refusal: FaultError | None = None
        while True:
            attempts += 1
            system = bool(request.system) and self._dialect.takes_system
            fields = self._dialect.body(rung, request.schema, max_tokens=limit, **_wanted(request))
            try:
                answered = self._send(request, urls, fields, system=system, retry=failures > 0)
            except FaultError as fault:
                if self._dialect.adapt(fields, fault, system=system):
                    continue
                lower = lower_rung(rung, fault)
                if lower is not None:
                    rung, refusal = lower, refusal or fault
                    continue
                failures += 1
                self._wait(fault, refusal, failures, attempts, stop)
                continue
            self._dialect.remember(request.schema, rung)
            if answered.finish == "stop" or limit >= self.settings.max_tokens:
                return answered, attempts
            limit = min(2 * limit, self.settings.max_tokens)

    def _send(
        self, request: ChatRequest, urls: Sequence[str], fields: Mapping[str, Any], *, system: bool, retry: bool
    ) -> Answered:
        conversation = messages(request.system, [*chain(*request.history), request.text], urls, takes_system=system)
        own = {name: value for name, value in fields.items() if name in _EXTENSIONS}
        usual = {name: value for name, value in fields.items() if name not in _EXTENSIONS}
        body = {"model": self.name, "messages": conversation, **usual}
        if more := {**own, **self.settings.extra_body}:
            body["extra_body"] = more
        wanted = Wanted(request.choice, request.thoughts)
        with self._slots:
            return self._counted(body, wanted, retry=retry)

    def _counted(self, body: Mapping[str, Any], wanted: Wanted, *, retry: bool) -> Answered:
        """Send a request, and enter its costs in the ledger."""
        began = time.monotonic()
        try:
            answered = send(self._client, body, self.settings.timeout, self._scrub, wanted)
        except FaultError as fault:
            self._unanswered = self._unanswered + 1 if fault.again else 0
            self._tally.add(calls=1, retries=retry, seconds=time.monotonic() - began)
            raise
        self._unanswered = 0
        self._tally.add(
            calls=1, retries=retry, seconds=time.monotonic() - began,
            prompt_tokens=answered.prompt_tokens, completion_tokens=answered.completion_tokens,
        )  # fmt: skip
        return answered

    def _wait(
        self, fault: FaultError, refusal: FaultError | None, failures: int, attempts: int, stop: threading.Event
    ) -> None:
        """Wait until the request may be sent again.

        Raises:
            RefinerError: the request must not be sent again.
        """
        patient = failures < self.settings.attempts and self._unanswered < 3 * self.settings.attempts
        asked = fault.wait or 0.0
        if not fault.again or not patient or asked > self.settings.max_wait or stop.is_set():
            raise self._error(refusal or fault, attempts)
        own = self.settings.backoff * 2.0 ** (failures - 1) * self._chance.uniform(0.5, 1.0)
        stop.wait(max(asked, min(own, self.settings.max_wait)))

    def _error(self, fault: FaultError, attempts: int) -> RefinerError:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        if fault.status in (401, 403):
            return ConfigError(
                f"{self.base_url} does not accept the key (HTTP status {fault.status}): "
                f"set the environment variable {self.key_variable}."
            )
        if fault.status == 404:
            return ModelNotFoundError(
                f"The model {self.name!r} was not found at {self.base_url}, which answered with {fault}: check the "
                "name of the model and the address."
            )
        return ModelError(
            f"The request to {self.name!r} at {self.base_url} failed with {fault} after {times}: "
            "check the server, or try again later."
        )


def _wanted(request: ChatRequest) -> dict[str, Any]:
    """The fields of a request that a server may refuse; None for those that are not needed."""
    return {
        "temperature": request.temperature,
        "seed": request.seed,
        "skip_special_tokens": False if request.marks else None,
        "logprobs": True if request.choice else None,
        "top_logprobs": LISTED if request.choice else None,
    }


def _reply(answered: Answered, attempts: int) -> ChatReply:
    return ChatReply(**answered._asdict(), from_cache=attempts == 0, attempts=attempts)


def _worth_keeping(answered: Answered, request: ChatRequest) -> bool:
    """Whether an answer may be stored: it is complete, and has the fields that the schema requires."""
    if request.schema is None or answered.finish != "stop":
        return answered.finish == "stop"
    try:
        document = read_document(answered.text)
    except UnreadableOutputError:
        return False
    return isinstance(document, dict) and all(name in document for name in request.schema.get("required", ()))


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)) or " " in key:
        raise ConfigError(
            f"The key in the environment variable {variable} has characters that an HTTP header cannot hold: correct "
            "the key."
        )
    return key


def _check_address(address: str) -> str:
    advice = "give the server's address, such as http://127.0.0.1:8000/v1, and the key in the environment."
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigError(f"Expected a base_url without a user name, key or query, got one that has these: {advice}")
    if not good:
        raise ConfigError(f"Expected a base_url of http or https, got {address!r}: {advice}")
    return address


class _Tally:
    """A ledger that several threads update."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = Ledger()

    def add(self, **spent: float) -> None:
        with self._lock:
            self.total += Ledger(**spent)  # type: ignore[arg-type]
