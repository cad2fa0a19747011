"""Read JSON as language models write it: in code fences, inside prose, cut off, with extra commas or Python constants.

``documents`` reads a text once, from left to right. A document ends at the first error in it, and reading continues
after it. So the time is proportional to the length of the text, and no text raises an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refiner.errors import UnreadableOutputError

MAX_TEXT = 1_000_000
"""Characters of a text that are read; the rest is treated as cut off."""
MAX_DEPTH = 32
"""Depth of nested brackets; deeper ones end the document."""

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
_FENCED = re.compile(r"```\w*\n?(.*?)\n?```", re.DOTALL)
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class LooseList(list[Any]):
    """A list; ``cut`` is True if its end, or the end of something in it, is missing or broken."""

    cut = False


class LooseDict(dict[str, Any]):
    """An object; ``cut`` as in ``LooseList``. If a key is repeated, its first value that is not empty counts."""

    cut = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """A list or object found in a text."""

    value: LooseList | LooseDict
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""

    @property
    def cut(self) -> bool:
        """Whether its end, or the end of something in it, is missing or broken."""
        return self.value.cut


def spoken(text: str) -> str:
    """Remove the thinking before an answer; the result is empty if the thinking did not end."""
    return _UNFINISHED_THINKING.sub("", _THINKING.sub("", text[:MAX_TEXT]))


def unfenced(text: str) -> str:
    """Remove white space around a text, and the code fence if it is all in one."""
    fenced = _FENCED.fullmatch(text.strip())
    return (fenced[1] if fenced else text).strip()


def documents(text: str) -> Iterator[Document]:
    """Find the outermost lists and objects of a text, in order, including those that are cut off."""
    place = 0
    while bracket := _BRACKET.search(text, place):
        reader = _Reader(text, bracket.start())
        value = reader.document()
        place = reader.place
        yield Document(value=value, start=bracket.start(), end=place)


def is_strict(text: str) -> bool:
    """Whether a text is standard JSON: no NaN, no extra comma, nothing repaired."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def read_document(text: str) -> LooseDict | LooseList:
    """Read the document of an answer: the last one that is complete and not empty.

    Raises:
        UnreadableOutputError: there is no such document.
    """
    whole = [document.value for document in documents(spoken(text)) if document.value and not document.cut]
    if not whole:
        raise unreadable("no complete JSON document", text)
    return whole[-1]


def unreadable(what: str, raw: str) -> UnreadableOutputError:
    """Make the error for an answer that cannot be read; ``what`` says what the answer contains instead."""
    shown = raw if len(raw) <= 120 else f"{raw[:120]}..."
    return UnreadableOutputError(f"The model's answer {shown!r} contains {what}: ask again.", raw)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


class _BrokenError(Exception):
    """The text continues with something that is not JSON, or ends."""


class _Reader:
    """Reads one document; ``place`` is the index at which it stopped."""

    def __init__(self, text: str, place: int) -> None:
        self.text, self.place = text, place

    def document(self) -> LooseList | LooseDict:
        kind, mark = self._token()
        assert kind == "mark"
        return self._list(1) if mark == "[" else self._object(1)

    def _token(self) -> tuple[str, str]:
        """Read the next token; raises ``_BrokenError``, without moving, if there is none."""
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
    """Return the text of a quoted token; an escape unknown to JSON becomes the character after the backslash."""
    if "\\" not in token:
        return token[1:-1]
    if token[0] == "'":
        token = '"' + token[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
