"""Chat models behind an OpenAI-compatible endpoint (vLLM, ``transformers serve``, hosted services)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from refiner.detectors.chat.backend import ChatReply, ChatRequest, Outcome
from refiner.detectors.chat.cache import AnswerCache, cache_key
from refiner.detectors.chat.connection import Connection
from refiner.detectors.chat.exchange import Exchange, Step, sampling
from refiner.detectors.chat.images import Pictures
from refiner.detectors.chat.options import EndpointSettings
from refiner.detectors.chat.wire import Answered, Dialect, Wanted, messages, names_of, send
from refiner.detectors.reading.loose_json import read_document
from refiner.errors import RefinerError, UnreadableOutputError
from refiner.ledger import Ledger

__all__ = ["EndpointChat", "EndpointSettings"]

_PATIENCE = 10.0
"""Seconds to wait for the list of models of a server."""


class EndpointChat:
    """A chat model behind an OpenAI-compatible endpoint; a ``ChatBackend``.

    A schema is first sent as a strict schema. If the server refuses that, JSON mode is used, and then only the text of
    the request. What worked is used for later requests. The same holds for the system turn, which some models refuse,
    for temperature, seed and the name of the limit of tokens, and for the fields that ask for special tokens and for
    probabilities: without the first, answers have no marks, without the second, ``ChatReply.probabilities`` is None.
    What a server refuses is judged by its words (``refusals``). An answer that is cut off is asked for with a higher
    limit; if no longer answer is to be had, what there is is returned. Images that are too large are sent as JPEG.

    Failed connections, late or broken answers, and the statuses 429 and 5xx are tried again. After many requests in a
    row without an answer (three times ``settings.attempts``), each further request is sent only once, until one is
    answered.

    Args:
        model: the server's name of the model.
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``OPENAI_BASE_URL``, else the hosted service.
        key_variable: environment variable that holds the key. If it is not set, a placeholder is sent.
        cache: folder that stores answers, by model and question, so that another server with a model of the same name
            gives the same answers; None stores nothing. Answers that are sampled without a seed, are cut off or lack a
            required field of the schema are not stored.
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
        self.settings = settings or EndpointSettings()
        self.name, self.max_side = model, self.settings.max_side
        self._connection = Connection(
            model,
            base_url=base_url,
            key_variable=key_variable,
            settings=self.settings,
            feature="A chat model behind an endpoint",
        )
        self.base_url, self.key_variable = self._connection.base_url, key_variable
        self._cache = None if cache is None else AnswerCache(cache)
        self._pictures = Pictures(self.max_side, self.settings.quality)
        self._dialect = Dialect()

    def __repr__(self) -> str:
        return f"EndpointChat({self.name!r}, base_url={self.base_url!r}, key_variable={self.key_variable!r})"

    @property
    def concurrency(self) -> int:
        """Maximum number of requests at the same time, from all threads together."""
        return self.settings.concurrency

    @property
    def manner(self) -> str:
        """The settings that decide the answers beside the model and the question; empty with the defaults."""
        return self.settings.manner

    @property
    def ledger(self) -> Ledger:
        """The costs so far."""
        return replace(self._connection.ledger, pictures=self._pictures.encoded)

    def known_as(self) -> tuple[str, ...]:
        """Other names of the model, as the server tells them: of its folder or hub id, and of its base model.

        Empty if the server does not tell.
        """
        patience = min(_PATIENCE, self.settings.timeout)
        return names_of(self._connection.client, self.name, patience, self._connection.scrub)

    def close(self) -> None:
        """Close the connections."""
        self._connection.client.close()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """See ``ChatBackend.complete``; requests run in parallel.

        The errors are ``ModelError`` (no answer, or a refusal; ``OversizeError`` if the images are too large),
        ``ConfigError`` (the key is not accepted), ``ModelNotFoundError`` (the server does not have the model) and
        ``InputError`` (a damaged image).
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
            question = self._question(request, digests)
            known = self._known(question)
            if known is not None:
                self._connection.add(cached=1)
                return _reply(known, attempts=0)
            answered, attempts = self._ask(request, digests, stop)
        except RefinerError as error:
            self._connection.add(failed=1)
            return error
        if self._cache and question and _worth_keeping(answered, request):
            self._cache.put(cache_key(question), answered)
        return _reply(answered, attempts)

    def _question(self, request: ChatRequest, digests: Sequence[str]) -> dict[str, Any] | None:
        """All that an answer depends on; None if it is random and must not be stored."""
        settings, (temperature, seed) = self.settings, sampling(request, self.settings)
        if temperature > 0 and seed is None:
            return None
        question = {
            "model": self.name, "system": request.system, "text": request.text, "images": list(digests),
            "max_side": self.max_side, "schema": request.schema, "temperature": temperature, "seed": seed,
            "max_tokens": [request.max_tokens, settings.max_tokens], "extra_body": dict(settings.extra_body),
        }  # fmt: skip
        question |= {name: True for name in ("marks", "thoughts") if getattr(request, name)}
        question |= {name: value for name in ("quality", "thinking") if (value := getattr(settings, name)) is not None}
        if request.choice is not None:
            question["choice"] = list(request.choice)
        if request.history:
            question["history"] = list(request.history)
        return question

    def _known(self, question: Mapping[str, Any] | None) -> Answered | None:
        """The stored answer; older versions stored it under a key that holds the address, too."""
        if self._cache is None or question is None:
            return None
        older = {**question, "base_url": self.base_url}
        return self._cache.get(cache_key(question)) or self._cache.get(cache_key(older))

    def _ask(self, request: ChatRequest, digests: Sequence[str], stop: threading.Event) -> tuple[Answered, int]:
        """Return the answer, and how often the model was asked for it."""
        exchange = Exchange(request, self._dialect, self.settings)
        answered = exchange.run(
            lambda step: self._send(request, digests, step, retry=exchange.failures > 0),
            lambda fault: self._connection.wait(
                fault, failures=exchange.failures, attempts=exchange.attempts, stop=stop
            ),
        )
        return answered, exchange.attempts

    def _send(self, request: ChatRequest, digests: Sequence[str], step: Step, *, retry: bool) -> Answered:
        shown = zip(digests, request.images, strict=True)
        urls = [self._pictures.url(digest, image, jpeg=step.jpeg) for digest, image in shown]
        conversation = messages(
            request.system, [*chain(*request.history), request.text], urls, takes_system=step.system
        )
        body = {"model": self.name, "messages": conversation, **_merged(step.fields, self.settings.extra_body)}
        wanted = Wanted(request.choice, thoughts=request.thoughts, json=request.schema is not None)
        client, scrub = self._connection.client, self._connection.scrub
        return self._connection.send(lambda: send(client, body, self.settings.timeout, scrub, wanted), retry=retry)


def _merged(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request; those of the user count more, also inside ``chat_template_kwargs``."""
    inside = "chat_template_kwargs"
    if isinstance(fields.get(inside), Mapping) and isinstance(extra.get(inside), Mapping):
        return {**fields, **extra, inside: {**fields[inside], **extra[inside]}}
    return {**fields, **extra}


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
