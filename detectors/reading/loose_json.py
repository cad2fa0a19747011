"""JSON as language models write it: fenced, amid prose, cut short, with stray commas or Python's words.

``documents`` walks a text once, from left to right. What breaks a document ends it there, and the walk goes on behind;
so any text takes time in proportion to its length, and none raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refiner.errors import UnreadableOutputError

MAX_TEXT = 1_000_000
"""Characters that are looked at; what comes after is taken for cut off."""
MAX_DEPTH = 32
"""Brackets within brackets; deeper ones break the document."""

_BRACKET = re.compile(r"[\[{]")
_TOKEN = re.compile(
    r"""\s*+(?:
    (?P<mark>[\[\]{}:,])
  | (?P<double>"[^"\\]*(?:\\.[^"\\]*)*")
  | (?P<single>'[^'\\]*(?:\\.[^'\\]*)*')
  | (?P<number>[-+]?(?:\d{1,300}\.?\d{0,300}|\.\d{1,300})(?:[eE][-+]?\d{1,6})?(?![\w.]))
  | (?P<word>[-+]?[A-Za-z_]\w{0,99})
  )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: dict[str, Any] = {
    "true": True, "false": False, "null": None, "none": None, "nan": float("nan"), "-nan": float("nan"),
    "infinity": float("inf"), "+infinity": float("inf"), "-infinity": float("-inf"),
    "inf": float("inf"), "+inf": float("inf"), "-inf": float("-inf"),
}  # fmt: skip
_THINKING = re.compile(r"^.*</think>", re.DOTALL)
_UNFINISHED_THINKING = re.compile(r"<think>.*$", re.DOTALL)
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class LooseList(list[Any]):
    """A list; ``cut`` where its end, or that of something in it, was missing or broken."""

    cut = False


class LooseDict(dict[str, Any]):
    """An object; ``cut`` as in ``LooseList``. Of a repeated key the first value counts that is not empty."""

    cut = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """A list or object found in a text."""

    value: LooseList | LooseDict
    start: int
    """Where it begins in the text, in characters."""
    end: int
    """One past its last character."""

    @property
    def cut(self) -> bool:
        """Whether its end, or that of something in it, is missing or broken."""
        return self.value.cut


def spoken(text: str) -> str:
    """The answer without the thinking before it; empty where the thinking never ended."""
    return _UNFINISHED_THINKING.sub("", _THINKING.sub("", text[:MAX_TEXT]))


def documents(text: str) -> Iterator[Document]:
    """The outermost lists and objects of a text, in order, cut ones among them."""
    place = 0
    while bracket := _BRACKET.search(text, place):
        reader = _Reader(text, bracket.start())
        value = reader.document()
        place = reader.place
        yield Document(value=value, start=bracket.start(), end=place)


def is_strict(text: str) -> bool:
    """Whether a text is JSON by the standard: no NaN, no stray comma, nothing repaired."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def read_document(text: str) -> LooseDict | LooseList:
    """The one document of an answer: of several whole ones that are not empty, the last.

    Raises:
        UnreadableOutputError: there is none.
    """
    whole = [document.value for document in documents(spoken(text)) if document.value and not document.cut]
    if not whole:
        raise unreadable("no whole JSON document", text)
    return whole[-1]


def unreadable(what: str, raw: str) -> UnreadableOutputError:
    """The error for an answer, with the answer itself."""
    shown = raw if len(raw) <= 120 else f"{raw[:120]}..."
    return UnreadableOutputError(f"Expected an answer in JSON, got {what} in {shown!r}: ask again.", raw)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


class _BrokenError(Exception):
    """The text goes on in a way that is no JSON, or ends."""


class _Reader:
    """Reads one document; ``place`` is where it stopped."""

    def __init__(self, text: str, place: int) -> None:
        self.text, self.place = text, place

    def document(self) -> LooseList | LooseDict:
        kind, mark = self._token()
        assert kind == "mark"
        return self._list(1) if mark == "[" else self._object(1)

    def _token(self) -> tuple[str, str]:
        """The next token; raises ``_BrokenError``, without moving, where there is none."""
        match = _TOKEN.match(self.text, self.place)
        if match is None or match.lastgroup is None:
            raise _BrokenError
        self.place = match.end()
        return match.lastgroup, match[match.lastgroup]

    def _value(self, kind: str, token: str, depth: int) -> Any:
        if kind == "mark":
            if token not in "[{" or depth > MAX_DEPTH:
                raise _BrokenError
            return self._list(depth) if token == "[" else self._object(depth)
        if kind in ("double", "single"):
            return _string(token)
        if kind == "number":
            return float(token) if any(sign in token for sign in ".eE") else int(token)
        if token.lower() in _WORDS:
            return _WORDS[token.lower()]
        raise _BrokenError

    def _list(self, depth: int) -> LooseList:
        items = LooseList()
        try:
            while True:
                kind, token = self._token()
                if token == "]" and kind == "mark":
                    return items
                if token == "," and kind == "mark":
                    continue
                item = self._value(kind, token, depth + 1)
                items.append(item)
                if getattr(item, "cut", False):
                    raise _BrokenError
        except _BrokenError:
            items.cut = True
            return items

    def _object(self, depth: int) -> LooseDict:
        members = LooseDict()
        try:
            while True:
                kind, token = self._token()
                if token == "}" and kind == "mark":
                    return members
                if token == "," and kind == "mark":
                    continue
                if kind == "mark":
                    raise _BrokenError
                key = token if kind in ("word", "number") else _string(token)
                if self._token() != ("mark", ":"):
                    raise _BrokenError
                value = self._value(*self._token(), depth + 1)
                if key not in members or members[key] in _EMPTY:
                    members[key] = value
                if getattr(value, "cut", False):
                    raise _BrokenError
        except _BrokenError:
            members.cut = True
            return members


def _string(token: str) -> str:
    """What a quoted token says; escapes that JSON does not know stand for the character behind the backslash."""
    if "\\" not in token:
        return token[1:-1]
    if token[0] == "'":
        token = '"' + token[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
