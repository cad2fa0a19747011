"""JSON that is read item by item, and found again by its place: a file of any length costs what one item does."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

_CHUNK: Final = 1 << 16
_BLANK: Final = " \t\n\r"


class Place(NamedTuple):
    """Where a record lies."""

    file: Path
    start: int
    """Bytes from the start of the file; of a parquet file, the row."""
    length: int
    """Bytes; 0 for a row of a parquet file."""

    def read(self) -> Any:
        """The JSON value there.

        Raises:
            OSError, ValueError, RecursionError: the file has changed since.
        """
        with self.file.open("rb") as file:
            file.seek(self.start)
            return json.loads(file.read(self.length).decode("utf-8"))


class Places:
    """Places in a few files, 24 bytes each.

    Args:
        files: that they lie in.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers) // 3

    def __getitem__(self, index: int) -> Place:
        number, start, length = self._numbers[3 * index : 3 * index + 3]
        return Place(self.files[number], start, length)

    def append(self, place: Place) -> None:
        """Add a place."""
        self._numbers.extend((self.files.index(place.file), place.start, place.length))


class Item(NamedTuple):
    """A value of a file."""

    start: int
    """Bytes from the start of the file."""
    length: int
    """Bytes."""
    value: Any


def first_letter(path: Path) -> str:
    """What a text file begins with, but for blanks and a byte order mark; "" where there is nothing else.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        while (letter := file.read(1)).isspace():
            pass
        return letter


def stream_lines(path: Path) -> Iterator[tuple[int, Item]]:
    """Number and value of each line that is not blank; a line that is no JSON comes as its text.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    start = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.decode("utf-8")
            if text.strip():
                yield number, Item(start, len(line), _parsed(text))
            start += len(line)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def stream_list(path: Path) -> Iterator[Item]:
    """The items of a JSON list.

    Raises:
        OSError, ValueError, RecursionError: the file cannot be read, or is no list.
    """
    with path.open("rb") as file:
        text = _Text(file, json.JSONDecoder())
        if not text.skip("["):
            raise ValueError("no list of records")
        if not text.skip("]"):
            yield text.value()
            while text.skip(","):
                yield text.value()
            text.expect("]")
        text.end()


def stream_object(path: Path, decoder: json.JSONDecoder) -> Iterator[tuple[str, Item]]:
    """Names and values of a JSON object; a name that stands twice comes twice.

    Args:
        path: UTF-8, with or without a byte order mark.
        decoder: of the values.

    Raises:
        OSError, ValueError, RecursionError: the file cannot be read, or is no object.
    """
    with path.open("rb") as file:
        text = _Text(file, decoder)
        text.expect("{")
        if not text.skip("}"):
            yield text.member()
            while text.skip(","):
                yield text.member()
            text.expect("}")
        text.end()


class _Text:
    """The text of a file, of which only what is being read is in memory."""

    def __init__(self, file: BinaryIO, decoder: json.JSONDecoder) -> None:
        self.file, self.decoder = file, decoder
        self.bytes = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended = "", 0, False
        self.start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        """Bytes before ``at``."""
        file.seek(self.start)

    def more(self) -> None:
        """Read on: twice as much each time, while one value is not whole."""
        self.text = self.text[self.at :]
        self.at = 0
        data = self.file.read(max(_CHUNK, len(self.text)))
        self.ended = not data
        self.text += self.bytes.decode(data, final=self.ended)

    def pass_by(self, end: int) -> int:
        """Go on to a place in ``text``; gives the bytes that were passed by."""
        size = len(self.text[self.at : end].encode())
        self.start, self.at = self.start + size, end
        return size

    def next(self) -> str:
        """The letter that comes next but for blanks; "" at the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in _BLANK:
                end += 1
            self.pass_by(end)
            if end < len(self.text) or self.ended:
                return self.text[end : end + 1]
            self.more()

    def skip(self, letter: str) -> bool:
        """Pass a letter by, if it comes next."""
        if self.next() != letter:
            return False
        self.pass_by(self.at + 1)
        return True

    def expect(self, letter: str) -> None:
        """Pass a letter by."""
        if not self.skip(letter):
            raise ValueError(f"no {letter!r} at byte {self.start}")

    def end(self) -> None:
        """Nothing but blanks is left."""
        if self.next():
            raise ValueError(f"more than one value, at byte {self.start}")

    def value(self) -> Item:
        """The next value."""
        self.next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise ValueError(f"{error.msg}, at byte {self.start}") from error
            else:
                if end < len(self.text) or self.ended:  # else a number may go on
                    start = self.start
                    return Item(start, self.pass_by(end), value)
            self.more()

    def member(self) -> tuple[str, Item]:
        """The next name and value."""
        if self.next() != '"':
            raise ValueError(f"no name at byte {self.start}")
        name = self.value().value
        self.expect(":")
        return name, self.value()
