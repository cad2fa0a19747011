"""The connection to an OpenAI-compatible endpoint: key and address, costs, and when a request may be sent again."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from refiner.detectors.chat.options import EndpointSettings
from refiner.detectors.chat.wire import FaultError, hide_in_logs, scrubber
from refiner.errors import ConfigError, MissingExtraError, ModelError, ModelNotFoundError, RefinerError
from refiner.ledger import Ledger


class Counted(Protocol):
    """An answer with the number of its tokens."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...


A = TypeVar("A", bound=Counted)


class Connection:
    """Sends requests to a model of an endpoint, counts what they cost, and says when a failed one may be sent again.

    Several threads may share it.

    Args:
        model: the server's name of the model.
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``OPENAI_BASE_URL``, else the hosted service.
        key_variable: environment variable that holds the key. If it is not set, a placeholder is sent.
        settings: timeouts, retries and limits.
        feature: what needs the ``openai`` package, for the error if it is not installed.

    Raises:
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: the address contains a key, or the key has characters that an HTTP header cannot hold.
    """

    def __init__(
        self, model: str, *, base_url: str | None, key_variable: str, settings: EndpointSettings, feature: str
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError(feature, "openai", "chat") from error
        self.model, self.settings, self.key_variable = model, settings, key_variable
        key = _key(key_variable)
        self.scrub = scrubber(key)
        self.base_url = _check_address(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        patient = settings.timeout
        self.client = openai.OpenAI(
            api_key=key or "none",
            base_url=self.base_url,
            max_retries=0,
            timeout=patient,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, timeout=patient),  # redirects leak the key
        )
        weakref.finalize(self, self.client.close)
        weakref.finalize(self, hide_in_logs(self.scrub))
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._unanswered = 0
        self._chance = random.Random()

    def add(self, **spent: float) -> None:
        """Enter costs, by the fields of ``Ledger``."""
        with self._lock:
            self.ledger += Ledger(**spent)  # type: ignore[arg-type]

    def send(self, request: Callable[[], A], *, retry: bool) -> A:
        """Send a request when there is room for it, and enter its costs; ``request`` raises ``FaultError``."""
        with self._slots:
            began = time.monotonic()
            try:
                answered = request()
            except FaultError as fault:
                self._unanswered = self._unanswered + 1 if fault.again else 0
                self._count(began, retry, *fault.tokens)
                raise
            self._unanswered = 0
            tokens = answered.prompt_tokens, answered.completion_tokens
            self._count(began, retry, *tokens, uncounted=tokens == (0, 0))
            return answered

    def _count(self, began: float, retry: bool, prompt: int, completion: int, *, uncounted: bool = False) -> None:
        self.add(
            calls=1, retries=retry, seconds=time.monotonic() - began,
            prompt_tokens=prompt, completion_tokens=completion, uncounted=uncounted,
        )  # fmt: skip

    def wait(self, fault: FaultError, *, failures: int, attempts: int, stop: threading.Event) -> None:
        """Wait until a request may be sent again.

        Args:
            fault: what came of it last.
            failures: how often it failed in a way that may pass.
            attempts: how often it was sent.
            stop: ends the wait.

        Raises:
            RefinerError: the request must not be sent again.
        """
        patient = failures < self.settings.attempts and self._unanswered < 3 * self.settings.attempts
        asked = fault.wait or 0.0
        if not fault.again or not patient or asked > self.settings.max_wait or stop.is_set():
            raise self._error(fault, attempts)
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
                f"The model {self.model!r} was not found at {self.base_url}, which answered with {fault}: check the "
                "name of the model and the address."
            )
        return ModelError(
            f"The request to {self.model!r} at {self.base_url} failed with {fault} after {times}: "
            "check the server, or try again later."
        )


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
