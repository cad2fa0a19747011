"""One request to an endpoint, sent until it is answered.

What a server refuses is changed, step by step, so that no request is sent again that would get the same refusal or, at
temperature 0, the same answer. An answer that was paid for is kept, even if it breaks off and a longer one fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from refiner.detectors.chat import refusals
from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.chat.choices import LISTED
from refiner.detectors.chat.options import EndpointSettings
from refiner.detectors.chat.wire import Answered, Dialect, FaultError, lower_rung
from refiner.errors import OversizeError, RefinerError

LEAST_TOKENS = 64
"""Least limit of an answer's tokens that is tried where a server does not say how many fit."""
_WARMTH = 0.3
"""Temperature of a request that is repeated because the answer at temperature 0 was empty."""


class Step(NamedTuple):
    """A request in the form in which it is sent next."""

    fields: dict[str, Any]
    system: bool
    """Whether there is a system turn."""
    jpeg: bool
    """Whether all images are sent as JPEG."""


class Exchange:
    """The state of one request.

    Args:
        request: what is asked.
        dialect: of the server.
        settings: of the endpoint.
    """

    def __init__(self, request: ChatRequest, dialect: Dialect, settings: EndpointSettings) -> None:
        self._request, self._dialect = request, dialect
        self._temperature, self._seed = sampling(request, settings)
        self._rung = dialect.rung(request.schema)
        self._most = settings.max_tokens
        self._limit = min(request.max_tokens, self._most)
        self._thinking = settings.thinking
        self._jpeg, self._empty = False, 0
        self._paid: Answered | None = None
        self._had = 0  # the limit at which the last answer was cut off
        self._refusal: FaultError | None = None
        self.attempts, self.failures = 0, 0

    def run(self, send: Callable[[Step], Answered], wait: Callable[[FaultError], None]) -> Answered:
        """Send the request until there is an answer; it is cut off if no longer one could be had.

        Args:
            send: sends it once; raises ``FaultError``.
            wait: waits until it may be sent again after a fault; raises the error to end with if it must not be.

        Raises:
            RefinerError: there is no answer.
        """
        while True:
            step = self._next()
            self.attempts += 1
            try:
                answered = send(step)
            except FaultError as fault:
                try:
                    self._change(step, fault, wait)
                except RefinerError:
                    if self._paid is None:
                        raise
                    return self._paid
                continue
            self._dialect.remember(self._request.schema, self._rung)
            if answered.text.strip():
                self._paid = answered
            if answered.finish == "stop":
                return answered
            self._had = self._limit
            if self._limit >= self._most:
                return self._paid or self._silent(wait)
            self._limit = min(2 * self._limit, self._most)

    def _next(self) -> Step:
        request = self._request
        fields = self._dialect.body(
            self._rung,
            request.schema,
            max_tokens=self._limit,
            thinking=self._thinking,
            temperature=self._temperature or (_WARMTH if self._empty else 0.0),
            seed=(self._seed or 0) + self._empty if self._empty else self._seed,
            skip_special_tokens=False if request.marks else None,
            logprobs=True if request.choice else None,
            top_logprobs=LISTED if request.choice else None,
        )
        return Step(fields, bool(request.system) and self._dialect.takes_system, self._jpeg)

    def _change(self, step: Step, fault: FaultError, wait: Callable[[FaultError], None]) -> None:
        """Change the request so that the fault does not come again, or wait if the fault may pass.

        Raises:
            RefinerError: neither is possible.
        """
        pictured = bool(self._request.images)
        if fault.refusal and refusals.refuses_length(fault.said):
            if not self._shorten(fault):
                if pictured and self._paid is None:
                    raise self._oversize(fault)
                wait(_final(fault))
        elif self._dialect.adapt(step.fields, fault, system=step.system):
            pass
        elif pictured and refusals.refuses_pictures(fault.status, fault.said):
            if step.jpeg:
                raise self._oversize(fault)
            self._jpeg = True
        elif lower := lower_rung(self._rung, fault, step.fields):
            self._rung, self._refusal = lower, self._refusal or fault
        else:
            self.failures += 1
            if fault.thought and self._thinking is None:
                self._thinking = False
            else:
                self._empty += fault.empty
            wait(self._refusal or fault)

    def _shorten(self, fault: FaultError) -> bool:
        """Lower the limit of tokens to what fits; False if that is too few, or no more than were paid for."""
        room = refusals.room_in(fault.said, self._limit)
        fits = self._limit // 2 if room is None else room
        if fits < min(LEAST_TOKENS, self._limit) or fits <= self._had:
            return False
        self._limit = self._most = fits
        return True

    def _oversize(self, fault: FaultError) -> OversizeError:
        return OversizeError(
            f"The images of a request are too large for the server, which answered with {fault}: set a smaller "
            "max_side for the model."
        )

    def _silent(self, wait: Callable[[FaultError], None]) -> Answered:
        """End without an answer, because the model wrote none before the limit of tokens."""
        words = f"no answer within {self._limit} tokens, which the model used for its thoughts: set thinking=off, or "
        wait(FaultError(f"{words}a larger max_tokens", again=False))
        raise AssertionError("a fault that does not pass was waited for")


def sampling(request: ChatRequest, settings: EndpointSettings) -> tuple[float, int | None]:
    """The temperature and the seed of a request: those of the settings, if they have any, else its own."""
    if settings.temperature is None:
        return request.temperature, request.seed
    seed = 0 if settings.temperature > 0 and request.seed is None else request.seed
    return settings.temperature, seed


def _final(fault: FaultError) -> FaultError:
    return FaultError(str(fault), again=False, status=fault.status)
