"""What a server refuses, judged by what it says: services differ in the status and in the field that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

MOST_READ: Final = 10_000
"""Characters of a refusal that are read."""
_FIRM: Final = (400, 403, 404, 405, 406, 413, 415, 422, 501)
"""HTTP statuses that refuse the request as it is. With others, only words of refusal make a refusal."""
_NEVER: Final = (401, 402, 408, 409, 425, 429)
"""HTTP statuses that say nothing about the fields of a request: key, payment, time and number of requests."""
_REFUSING = re.compile(
    r"not (?:be )?(?:support|allow|permit|accept|recogni[sz]|implement|available|valid)|n't support|unsupported"
    r"|does not (?:take|have|support|accept|allow)|un(?:known|recogni[sz]ed|expected|available)|invalid|deprecated"
    r"|extra inputs?|cannot|can't|fail(?:ed|s|ure)? to|must be|illegal|\bonly\b",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"response[_ ]?format|json[_ ]?(?:schema|object|mode)|\bschemas?\b|structured[_ ]?outputs?|\bgrammars?\b"
    r"|guided[_ ](?:json|decoding|grammar)|xgrammar|outlines|llguidance",
    re.IGNORECASE,
)
_NO_SYSTEM = re.compile(r"\bsystem\b.{0,20}\brole|\brole.{0,20}\bsystem\b|roles must alternate", re.IGNORECASE)
"""Messages of servers if a model's chat template has no system turn (Gemma, early Mistral)."""
_PICTURE = r"(?:images?|pictures?|payload|(?:request )?(?:entity|body)|media)"
_LARGE = r"(?:too (?:large|big|long|many)|exceed\w*|larger than|greater than|over the limit|maximum|\bmax\b)"
_OVERSIZE = re.compile(
    rf"\b{_PICTURE}\b.{{0,80}}{_LARGE}|{_LARGE}.{{0,40}}\b{_PICTURE}\b|request_too_large", re.IGNORECASE | re.DOTALL
)
_COUNT = r"(\d[\d,_]{0,14})"
_CONTEXT = re.compile(
    rf"(?:context[ _](?:length|window|size)|max_model_len|max_seq_len|<=)(?:\D{{0,40}}{_COUNT})?", re.IGNORECASE
)
_USED = re.compile(
    rf"{_COUNT} `?(?:input`? tokens|inputs` tokens|prompt tokens|tokens? (?:from|in|of) the (?:input|messages?|prompt)"
    r"|in the (?:messages?|prompt))",
    re.IGNORECASE,
)
_WRITTEN = re.compile(r"\bmax_(?:completion_|output_|new_)?tokens\b|(?:completion|output|new) tokens", re.IGNORECASE)
_EXCEEDS = re.compile(
    r"too (?:large|big|many|long|high)|exceed|at most|(?:larger|greater|longer|more|less) than|maximum|reduce|[<>]",
    re.IGNORECASE,
)
_MOST_WRITTEN = re.compile(
    rf"at most {_COUNT} (?:completion|output|new)? ?tokens|tokens\D{{0,5}}\d[\d,_]{{0,14}} > {_COUNT}"
    rf"|(?:less than or equal to|must be <=|maximum (?:of|is)|limit(?: of| is)?) {_COUNT}",
    re.IGNORECASE,
)


def words_of(document: Any, text: str) -> str:
    """The words of a refusal: its message, without the request that some servers repeat in it.

    Args:
        document: the parsed answer, or its member ``error``; anything.
        text: the whole answer.
    """
    if isinstance(document, dict):
        inner = document.get("error")
        if isinstance(inner, dict):
            document = inner
        for name in ("message", "detail", "error", "msg"):
            value = document.get(name)
            if isinstance(value, list):
                value = "; ".join(_entry(item) for item in value[:20])
            if isinstance(value, str) and value.strip():
                return value[:MOST_READ]
    return text[:MOST_READ]


def _entry(item: Any) -> str:
    """One error of FastAPI: its place and message, without the input."""
    if not isinstance(item, dict):
        return str(item)
    place = item.get("loc")
    return f"{'.'.join(map(str, place)) if isinstance(place, list) else ''} {item.get('msg', '')}".strip()


def is_refusal(status: int | None, said: str) -> bool:
    """Whether a fault says that the request must be changed; None: there was no error status."""
    return status not in _NEVER and (status in _FIRM or _REFUSING.search(said) is not None)


def refuses_system(said: str) -> bool:
    """Whether the model takes no system turn."""
    return _NO_SYSTEM.search(said) is not None


def refuses_form(status: int | None, param: str | None, said: str, body: Mapping[str, Any]) -> bool:
    """Whether the form of the answer may be refused: it is named, or nothing else is."""
    if status in _NEVER:
        return False
    if _root(param) in ("response_format", "json_schema", "schema"):
        return True
    if _FORM.search(said):
        return status in _FIRM or status is None or status >= 500
    return status in (400, 415, 422, 501) and _root(param) not in ("model", "messages", *body)


def refused_field(param: str | None, said: str, body: Mapping[str, Any], known: Sequence[str]) -> str | None:
    """The field of a request that is refused: that which the server names, else the first of ``known`` in its words."""
    if (named := _root(param)) in body:
        return named
    return next((name for name in known if name in body and re.search(rf"\b{name}\b", said)), None)


def _root(param: str | None) -> str:
    """The field of the request that a server names, such as ``messages`` for ``messages[0].content``."""
    return re.split(r"[.\[]", param or "")[0]


def refuses_pictures(status: int | None, said: str) -> bool:
    """Whether the images, or the request because of them, are too large."""
    return status == 413 or (status not in _NEVER and _OVERSIZE.search(said) is not None)


def refuses_length(said: str) -> bool:
    """Whether the answer's limit of tokens is too large, by itself or together with the request."""
    about = _CONTEXT.search(said) or _WRITTEN.search(said)
    return about is not None and _EXCEEDS.search(said) is not None


def room_in(said: str, limit: int) -> int | None:
    """The number of tokens that an answer may have, below ``limit``; at most 0 if the request alone is too long.

    None: the refusal does not say it.
    """
    context, used = _CONTEXT.search(said), _USED.search(said)
    if context and context[1] and used:
        room = _number(context[1]) - _number(used[1])
        return room if room < limit else None
    most = _MOST_WRITTEN.search(said)
    room = _number(next(filter(None, most.groups()))) if most else limit
    return room if room < limit else None


def _number(text: str) -> int:
    return int(re.sub(r"\D", "", text))
