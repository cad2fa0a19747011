"""Requests to an OpenAI-compatible endpoint, its answers, and its errors."""

from __future__ import annotations

import base64
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

from refiner.detectors.chat.choices import Choice, listed_shares

if TYPE_CHECKING:
    import openai

Rung = Literal["schema", "json", "text"]
"""How the server is asked to constrain an answer: follow the schema, write any JSON, or write any text."""
RUNGS: tuple[Rung, ...] = ("schema", "json", "text")
Finish = Literal["stop", "length"]
Scrub = Callable[[str], str]

_WIRE_LOGGERS = ("httpcore", "httpx", "openai")
"""Prefixes of the names of loggers that log requests and answers."""
MAX_BODY = 64_000_000
"""Largest answer that is read, in bytes."""
_REFUSALS = (400, 415, 422, 501)
"""HTTP statuses with which servers refuse an unknown field."""
_AGAIN = (408, 409, 425, 429)
_OMITTED: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "seed": ("seed",),
    "skip_special_tokens": ("skip_special_tokens",),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
}
"""Field that a server may refuse -> the fields that are then omitted."""
_NAMED = re.compile(r"\b(?:skip_special_tokens|(?:top_)?logprobs)\b")
"""Fields that servers refuse in words, without naming the field in ``param``."""
_MOST_READ = 10_000
"""Characters of a refusal in which fields are looked for."""
_NO_SYSTEM = re.compile(r"\bsystem\b.{0,20}\brole|\brole.{0,20}\bsystem\b|roles must alternate", re.IGNORECASE)
"""Messages of servers if a model's chat template has no system turn (Gemma, early Mistral)."""


class Answered(NamedTuple):
    """A chat completion that was read."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    probabilities: tuple[float, ...] | None = None
    """Of the words of a ``Choice``; None if they are not known, or not wanted."""


class Wanted(NamedTuple):
    """What is read of a completion beside its text."""

    choice: Choice | None = None
    thoughts: bool = False
    """Whether thoughts that the server returns apart are put before the text, in the element ``think``."""


class FaultError(Exception):
    """A request failed. The message does not contain the key.

    Args:
        message: a noun phrase that says what came instead of an answer.
        again: whether the same request may succeed later.
        wait: seconds that the server asks to wait before the next attempt.
        status: HTTP status, if there is one.
        param: the field that the server names as the cause.
        mentioned: fields that the text of the server mentions; only some are looked for.
    """

    def __init__(
        self,
        message: str,
        *,
        again: bool,
        wait: float | None = None,
        status: int | None = None,
        param: str | None = None,
        mentioned: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.again, self.wait, self.status, self.param, self.mentioned = again, wait, status, param, mentioned


def scrubber(key: str) -> Scrub:
    """Make a function that removes a key from a text: the key itself and the forms in which servers repeat it."""
    forms = {key, quote(key, safe=""), base64.b64encode(key.encode()).decode()} if len(key) >= 8 else set()
    patterns = [re.escape(form) for form in sorted(forms, key=len, reverse=True)]
    pattern = re.compile("|".join([*patterns, r"\bBearer\s+[^\s\"']+", r"\bsk-[\w*.-]{6,}"]))
    return lambda text: pattern.sub("[key]", text)


class _Hiding(logging.Filter):
    """Removes the key from the DEBUG logs of the HTTP libraries, where servers may repeat it."""

    def __init__(self, scrub: Scrub) -> None:
        super().__init__()
        self.scrub = scrub

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.scrub(record.getMessage()), ()
        if record.exc_info:
            record.exc_text, record.exc_info = self.scrub(logging.Formatter().formatException(record.exc_info)), None
        return True


def hide_in_logs(scrub: Scrub) -> Callable[[], None]:
    """Remove the key from the logs of the HTTP libraries that are imported; returns a function that ends this."""
    hiding = _Hiding(scrub)
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_WIRE_LOGGERS)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(hiding)

    def end() -> None:
        for logger in loggers:
            logger.removeFilter(hiding)

    return end


class Dialect:
    """What a server has accepted and refused so far; shared by the threads that send requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit_name = "max_tokens"
        self._dropped: set[str] = set()
        self.takes_system = True
        self._rungs: dict[str, Rung] = {}

    def rung(self, schema: Mapping[str, Any] | None) -> Rung:
        """Return the first rung to try for a schema: the one that worked with it before, else ``schema``."""
        if schema is None:
            return "text"
        with self._lock:
            return self._rungs.get(_canonical(schema), "schema")

    def remember(self, schema: Mapping[str, Any] | None, rung: Rung) -> None:
        if schema is not None:
            with self._lock:
                self._rungs[_canonical(schema)] = rung

    def body(self, rung: Rung, schema: Mapping[str, Any] | None, *, max_tokens: int, **wanted: Any) -> dict[str, Any]:
        """Make the fields of a request, without those that are None or that the server has refused."""
        form = {
            "schema": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
            "json": {"type": "json_object"},
            "text": None,
        }[rung]
        with self._lock:
            fields = {self._limit_name: max_tokens, "response_format": form, **wanted}
            return {name: value for name, value in fields.items() if value is not None and name not in self._dropped}

    def adapt(self, body: Mapping[str, Any], fault: FaultError, *, system: bool) -> bool:
        """Adapt to a refusal of the system turn, or of a field that can be renamed or omitted.

        Returns:
            Whether something was changed, so that the request can be sent again.
        """
        refused = next((name for name in (fault.param, *fault.mentioned) if name in body), None)
        if fault.status not in _REFUSALS and not (fault.status == 403 and fault.mentioned and refused):
            return False
        if system and _NO_SYSTEM.search(str(fault)):
            self.takes_system = False
            return True
        with self._lock:
            if refused == "max_tokens":
                self._limit_name = "max_completion_tokens"
            elif refused is not None and refused in _OMITTED:
                self._dropped.update(_OMITTED[refused])
            else:
                return False
        return True


def lower_rung(rung: Rung, fault: FaultError) -> Rung | None:
    """Return the next lower rung if the fault may be a refusal of this one, else None."""
    named = (fault.param or "response_format").split(".")[0]
    if rung == "text" or fault.status not in _REFUSALS or named not in ("response_format", "json_schema", "schema"):
        return None
    return RUNGS[RUNGS.index(rung) + 1]


def messages(
    system: str, turns: Sequence[str], pictures: Sequence[str], *, takes_system: bool = True
) -> list[dict[str, Any]]:
    """Make the conversation, images first; if the model takes no system turn, its text begins the user's first turn.

    ``turns`` are the texts of user, model, user and so on.
    """
    first, *others = turns
    if system and not takes_system:
        return messages("", [f"{system}\n\n{first}", *others], pictures)
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content = [*shown, {"type": "text", "text": first}] if shown else first
    opening = [{"role": "system", "content": system}] if system else []
    roles = cycle(("assistant", "user"))
    later = [{"role": role, "content": text} for role, text in zip(roles, others, strict=False)]
    return [*opening, {"role": "user", "content": content}, *later]


def send(client: openai.OpenAI, fields: Mapping[str, Any], seconds: float, scrub: Scrub, wanted: Wanted) -> Answered:
    """Send one request; it takes at most about twice ``seconds``.

    Raises:
        FaultError: the answer is not a chat completion, or there is no answer.
    """
    import httpx2
    import openai

    try:
        with client.chat.completions.with_streaming_response.create(**dict(fields)) as response:
            content = _collect(response.iter_bytes(), seconds)
    except (openai.APITimeoutError, httpx2.TimeoutException):
        raise _late(seconds) from None
    except openai.APIStatusError as error:
        raise _status_fault(error, scrub) from None
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        cause = scrub(str(error.__cause__ or error))[:200]
        raise FaultError(f"a failed connection ({cause})", again=True) from None
    except openai.OpenAIError as error:
        raise FaultError(f"the error {scrub(str(error))[:200]!r}", again=False) from None
    return read_body(content, scrub, wanted)


def _late(seconds: float) -> FaultError:
    return FaultError(f"a timeout (no complete answer within {seconds:g} seconds)", again=True)


def _collect(chunks: Any, seconds: float) -> bytes:
    began, content = time.monotonic(), bytearray()
    for chunk in chunks:
        content += chunk
        if time.monotonic() - began > seconds:
            raise _late(seconds)
        if len(content) > MAX_BODY:
            raise FaultError(f"an answer of more than {MAX_BODY:,} bytes", again=False)
    return bytes(content)


def _status_fault(error: openai.APIStatusError, scrub: Scrub) -> FaultError:
    status, body = error.status_code, error.body
    told = body if isinstance(body, dict) else {}
    param, code = told.get("param"), told.get("code")
    said = "" if status in (401, 403) else f" ({scrub(' '.join(error.response.text.split()))[:300]})"
    return FaultError(
        f"HTTP status {status}{said}",
        again=(status in _AGAIN or (status >= 500 and status != 501)) and code != "insufficient_quota",
        wait=_retry_after(error.response.headers),
        status=status,
        param=param if isinstance(param, str) else None,
        mentioned=tuple(dict.fromkeys(_NAMED.findall(error.response.text[:_MOST_READ]))),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the seconds to wait from the header ``retry-after``, which is a number or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()


def read_body(content: bytes, scrub: Scrub, wanted: Wanted) -> Answered:
    """Read the completion in the body of an answer with status 200.

    Raises:
        FaultError: the body is not a completion, it is empty, or the model or a filter refuses to answer.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise FaultError("an answer that is not JSON", again=True) from None
    try:
        answer = body["choices"][0]
        message, reason = answer["message"], answer.get("finish_reason")
        text = _text_of(message.get("content"))
        if wanted.thoughts and "<think>" not in text:
            text = f"{_thoughts_of(message)}{text}"
    except (KeyError, IndexError, TypeError, AttributeError):
        said = body.get("error") if isinstance(body, dict) else None
        told = f" ({scrub(str(said))[:300]})" if said else ""
        raise FaultError(f"JSON that is not a chat completion{told}", again=True) from None
    if reason == "content_filter" or (not text and message.get("refusal")):
        raise FaultError(f"a refusal ({scrub(str(message.get('refusal') or 'content filter'))[:200]})", again=False)
    if not text.strip() and reason != "length":
        raise FaultError("an empty answer", again=True)
    usage = body.get("usage")
    return Answered(
        text=scrub(text),
        finish="length" if reason == "length" else "stop",
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        probabilities=_probabilities(answer.get("logprobs"), wanted.choice),
    )


def _probabilities(listed: Any, choice: Choice | None) -> tuple[float, ...] | None:
    if choice is None or not isinstance(listed, dict):
        return None
    return listed_shares(listed.get("content"), choice)


def _thoughts_of(message: Mapping[str, Any]) -> str:
    """The thoughts that vLLM, transformers and others return apart, in the element ``think``; empty without any."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{found}</think>" if isinstance(found, str) and found.strip() else ""


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _canonical(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)
