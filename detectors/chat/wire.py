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
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

from refiner.detectors.chat import refusals
from refiner.detectors.chat.choices import Choice, listed_shares
from refiner.detectors.reading.loose_json import is_strict, unfenced

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
_MOST_NAMES, _MOST_NAME = 12, 300
"""Most names of a model that are read of a server's list, and the longest in characters."""
_AGAIN = (408, 409, 425, 429)
_OMITTED: Mapping[str, tuple[str, ...]] = {
    "skip_special_tokens": ("skip_special_tokens",),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
    "temperature": ("temperature",),
    "seed": ("seed",),
}
"""Field that a server may refuse -> the fields that are then omitted."""
_LIMITS = ("max_tokens", "max_completion_tokens", "")
"""Names of the limit of tokens, in the order in which they are tried; the last one: no limit is sent."""
_THINKING: Mapping[bool, tuple[Mapping[str, Any], ...]] = {
    True: ({"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "medium"}),
    False: (
        {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"},
        {"reasoning_effort": "minimal"},
    ),
}  # fmt: skip
"""Fields that turn thinking on or off, in the order in which they are tried: of vLLM and SGLang, then of services."""


class Answered(NamedTuple):
    """A chat completion that was read."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    probabilities: tuple[float, ...] | None = None
    """Of the words of a ``Choice``; None if they are not known, or not wanted."""


class Wanted(NamedTuple):
    """What is read of a completion, and how."""

    choice: Choice | None = None
    thoughts: bool = False
    """Whether thoughts that the server returns apart are put before the text, in the element ``think``."""
    json: bool = False
    """Whether the answer is JSON."""


class FaultError(Exception):
    """A request failed. The message does not contain the key.

    Args:
        message: a noun phrase that says what came instead of an answer.
        again: whether the same request may succeed later.
        wait: seconds that the server asks to wait before the next attempt.
        status: HTTP status, if it is an error.
        param: the field that the server names as the cause.
        said: the words of the server about it, as ``refusals`` reads them.
        empty: whether the model answered with nothing, so that the same request would get the same answer.
        thought: whether it wrote thoughts instead.
        tokens: of prompt and answer, as the server counts them; they were paid.
    """

    def __init__(
        self,
        message: str,
        *,
        again: bool,
        wait: float | None = None,
        status: int | None = None,
        param: str | None = None,
        said: str = "",
        empty: bool = False,
        thought: bool = False,
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(message)
        self.again, self.wait, self.status, self.param, self.said = again, wait, status, param, said
        self.empty, self.thought, self.tokens = empty, thought, tokens

    @property
    def refusal(self) -> bool:
        """Whether the request must be changed."""
        return refusals.is_refusal(self.status, self.said)


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
        self._limit, self._efforts = 0, {True: 0, False: 0}
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

    def body(
        self,
        rung: Rung,
        schema: Mapping[str, Any] | None,
        *,
        max_tokens: int,
        thinking: bool | None,
        **wanted: Any,
    ) -> dict[str, Any]:
        """Make the fields of a request, without those that are None or that the server has refused.

        ``thinking`` turns thinking on or off, in the way that the server takes; None sends nothing about it.
        """
        form = {
            "schema": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
            "json": {"type": "json_object"},
            "text": None,
        }[rung]
        with self._lock:
            switch = {} if thinking is None else _THINKING[thinking][self._efforts[thinking]]
            fields = {_LIMITS[self._limit]: max_tokens, "response_format": form, **wanted, **switch}
            omitted = {"", *self._dropped}
            return {name: value for name, value in fields.items() if value is not None and name not in omitted}

    def adapt(self, body: Mapping[str, Any], fault: FaultError, *, system: bool) -> bool:
        """Adapt to a refusal of the system turn, or of a field that can be renamed or omitted.

        Returns:
            Whether something was changed, so that the request can be sent again.
        """
        if not fault.refusal:
            return False
        if system and refusals.refuses_system(fault.said):
            self.takes_system = False
            return True
        known = (*_LIMITS[:-1], *_OMITTED, "chat_template_kwargs", "reasoning_effort")
        refused = refusals.refused_field(fault.param, fault.said, body, known)
        with self._lock:
            if refused is None:
                return False
            if refused in _LIMITS:
                self._limit = max(self._limit, _LIMITS.index(refused) + 1)
            elif refused in _OMITTED:
                self._dropped.update(_OMITTED[refused])
            else:
                return self._think_otherwise(body, refused)
        return True

    def _think_otherwise(self, body: Mapping[str, Any], refused: str) -> bool:
        for thinking, ways in _THINKING.items():
            sent = next((place for place, way in enumerate(ways) if way.items() <= body.items()), None)
            if sent is not None and refused in ways[sent] and sent + 1 < len(ways):
                self._efforts[thinking] = max(self._efforts[thinking], sent + 1)
                return True
        return False


def lower_rung(rung: Rung, fault: FaultError, body: Mapping[str, Any]) -> Rung | None:
    """Return the next lower rung if the fault may be a refusal of this one, else None."""
    if rung == "text" or not refusals.refuses_form(fault.status, fault.param, fault.said, body):
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


def send(client: openai.OpenAI, body: Mapping[str, Any], seconds: float, scrub: Scrub, wanted: Wanted) -> Answered:
    """Send one request; it takes at most about twice ``seconds``.

    ``body`` goes as the client's ``extra_body``, which is sent as it is: going through the fields of a long
    conversation takes the client longer than all else.

    Raises:
        FaultError: the answer is not a chat completion, or there is no answer.
    """
    create = client.chat.completions.with_streaming_response.create
    content = fetched(lambda: create(model=body["model"], messages=[], extra_body=body), seconds, scrub)
    return read_body(content, scrub, wanted)


def fetched(open_: Callable[[], AbstractContextManager[Any]], seconds: float, scrub: Scrub) -> bytes:
    """Read the body of an answer; ``open_`` sends the request. Raises FaultError if there is no answer."""
    import httpx2
    import openai

    try:
        with open_() as response:
            return _collect(response.iter_bytes(), seconds)
    except (openai.APITimeoutError, httpx2.TimeoutException):
        raise _late(seconds) from None
    except openai.APIStatusError as error:
        raise _status_fault(error, scrub) from None
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        cause = scrub(str(error.__cause__ or error))[:200]
        raise FaultError(f"a failed connection ({cause})", again=True) from None
    except openai.OpenAIError as error:
        raise FaultError(f"the error {scrub(str(error))[:200]!r}", again=False) from None


def names_of(client: openai.OpenAI, model: str, seconds: float, scrub: Scrub) -> tuple[str, ...]:
    """The other names of a model in the server's list of models: what it was loaded from, and its base model.

    ``model`` is the name that the server gives it; if the list has another one alone, that is taken for it. The list
    is that of vLLM and SGLang: objects with ``id``, ``root`` and ``parent``. Empty if the server does not tell.
    """
    import httpx2
    import openai

    client = client.with_options(timeout=seconds)
    try:
        with client.models.with_streaming_response.list() as response:
            listed = json.loads(_collect(response.iter_bytes(), seconds))["data"]
        models = {str(entry["id"]): entry for entry in listed}
    except (openai.OpenAIError, httpx2.HTTPError, FaultError, ValueError, RecursionError, KeyError, TypeError):
        return ()
    found: list[Any] = []
    name: Any = model if model in models else next(iter(models)) if len(models) == 1 else None
    while isinstance(name, str) and name in models and len(found) < _MOST_NAMES:
        entry = models.pop(name)
        found += [entry["id"], entry.get("root"), name := entry.get("parent")]
    texts = (scrub(text[:_MOST_NAME]) for text in found if isinstance(text, str))
    return tuple(dict.fromkeys(text for text in texts if text != model))


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
        said=scrub(refusals.words_of(body, error.response.text)),
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
        if not text.strip():
            text = _answer_in(_thoughts_of(message), wanted)
        elif wanted.thoughts and "<think>" not in text:
            text = f"{_marked(_thoughts_of(message))}{text}"
    except (KeyError, IndexError, TypeError, AttributeError):
        error = body.get("error") if isinstance(body, dict) else None
        told = f" ({scrub(str(error))[:300]})" if error else ""
        words = scrub(refusals.words_of(body, "")) if error else ""
        raise FaultError(f"JSON that is not a chat completion{told}", again=True, said=words) from None
    usage = body.get("usage")
    tokens = counted(usage, "prompt_tokens"), counted(usage, "completion_tokens")
    if reason == "content_filter" or (not text and message.get("refusal")):
        words = scrub(str(message.get("refusal") or "content filter"))[:200]
        raise FaultError(f"a refusal ({words})", again=False, tokens=tokens)
    if not text.strip() and reason != "length":
        thought = bool(_thoughts_of(message).strip())
        words = "thoughts without an answer" if thought else "an empty answer"
        raise FaultError(words, again=True, empty=True, thought=thought, tokens=tokens)
    return Answered(
        text=scrub(text),
        finish="length" if reason == "length" else "stop",
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        probabilities=_probabilities(answer.get("logprobs"), wanted.choice),
    )


def _probabilities(listed: Any, choice: Choice | None) -> tuple[float, ...] | None:
    if choice is None or not isinstance(listed, dict):
        return None
    return listed_shares(listed.get("content"), choice)


def _thoughts_of(message: Mapping[str, Any]) -> str:
    """The thoughts that vLLM, transformers and others return apart; empty without any."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _marked(thoughts: str) -> str:
    return f"<think>{thoughts}</think>" if thoughts.strip() else ""


def _answer_in(thoughts: str, wanted: Wanted) -> str:
    """The answer among thoughts, where some servers put it if a model does not mark their end; empty if there is none.

    Thoughts may contain drafts of the answer. So it must stand after the mark, or be JSON and all that was written.
    """
    _, mark, after = thoughts.rpartition("</think>")
    if wanted.thoughts:
        return f"<think>{thoughts}" if mark and "<think>" not in thoughts else thoughts if mark else _marked(thoughts)
    if mark:
        return after
    return thoughts if wanted.json and is_strict(unfenced(thoughts)) else ""


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""


def counted(usage: Any, name: str) -> int:
    """Read a number of tokens of an answer's ``usage``; 0 if it is not told."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _canonical(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)
