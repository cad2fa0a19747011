"""JSON that is read item by item, and read again by its place. Memory does not grow with the length of the file."""

from __future__ import annotations

import codecs
import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from refiner.errors import InputError
from refiner.reading import LARGEST, encoding_of, reason_of

_CHUNK: Final = 1 << 16
_BLANK: Final = " \t\n\r"
_T = TypeVar("_T")


class Place(NamedTuple):
    """The place of a record in a file."""

    file: Path
    start: int
    """Bytes from the start of the file; the row for a parquet file."""
    length: int
    """Bytes; 0 for a row of a parquet file."""

    def read(self) -> Any:
        """The JSON value there.

        Raises:
            OSError, ValueError, RecursionError: the file has changed.
        """
        with self.file.open("rb") as file:
            encoding, _ = encoding_of(file.read(4))
            file.seek(self.start)
            return json.loads(file.read(self.length).decode(encoding))


def read_again(place: Place, read: Callable[[Any, Place], _T]) -> _T:
    """Read a record again that was read when its data set was opened.

    Args:
        place: of the record.
        read: from its JSON value and its place to the record.

    Raises:
        InputError: the file has changed since then.
    """
    try:
        return read(place.read(), place)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read the record at byte {place.start} of {str(place.file)!r} again ({reason_of(error)}): "
            "do not change the file while it is used."
        ) from error


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

    value: Any
    place: Place


def first_letter(path: Path) -> str:
    """The first character of a text file after blanks and a byte order mark; "" if there is none.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _Text(path, file, json.JSONDecoder()).next()


def stream_records(path: Path) -> Iterator[tuple[str, Item]]:
    """The records of a JSON Lines file (``.jsonl``) or of a JSON list, each with its place in words.

    A line that is not JSON, or not UTF-8, is returned as its text.

    Raises:
        OSError, ValueError, RecursionError: the file cannot be read, or is not a list.
    """
    if path.suffix.lower() == ".jsonl":
        yield from ((f"line {number}", item) for number, item in stream_lines(path))
    else:
        yield from ((f"record {number}", item) for number, item in enumerate(stream_list(path)))


def stream_lines(path: Path) -> Iterator[tuple[int, Item]]:
    """Number and value of each line that is not blank, of UTF-8 or UTF-16, with or without a byte order mark.

    A line that is not JSON, or not UTF-8, is returned as its text.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is longer than ``LARGEST`` bytes.
    """
    for number, (start, data, encoding) in enumerate(_lines(path), 1):
        value: Any = data.decode(encoding, "backslashreplace")
        if value.strip():
            with suppress(ValueError, RecursionError):
                value = json.loads(data.decode(encoding))
            yield number, Item(value, Place(path, start, len(data)))


def _lines(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """The start, the bytes and the encoding of each line."""
    with path.open("rb") as file:
        encoding, start = encoding_of(file.read(4))
        file.seek(start)
        text = None if encoding == "utf-8" else io.TextIOWrapper(file, encoding, newline="\n")
        while line := file.readline(LARGEST + 1) if text is None else text.readline(LARGEST + 1):
            data = line if isinstance(line, bytes) else line.encode(encoding)
            if len(data) > LARGEST:
                raise ValueError(f"a line has more than {LARGEST} bytes")
            yield start, data, encoding
            start += len(data)


def stream_list(path: Path) -> Iterator[Item]:
    """The items of a JSON list.

    Raises:
        OSError, ValueError, RecursionError: the file cannot be read, or is not a list.
    """
    return _stream(path, json.JSONDecoder(), "[]", _Text.value)


def stream_object(path: Path, decoder: json.JSONDecoder) -> Iterator[tuple[str, Item]]:
    """Names and values of a JSON object; a repeated name is returned each time.

    Args:
        path: UTF-8 or UTF-16, with or without a byte order mark.
        decoder: of the values.

    Raises:
        OSError, ValueError, RecursionError: the file cannot be read, or is not an object.
    """
    return _stream(path, decoder, "{}", _Text.member)


def _stream(path: Path, decoder: json.JSONDecoder, brackets: str, read: Callable[[_Text], _T]) -> Iterator[_T]:
    with path.open("rb") as file:
        text = _Text(path, file, decoder)
        text.expect(brackets[0])
        if not text.skip(brackets[1]):
            yield read(text)
            while text.skip(","):
                yield read(text)
            text.expect(brackets[1])
        if text.next():
            raise ValueError(f"more than one value, at byte {text.start}")


class _Text:
    """The text of a file; only the part that is being read is in memory."""

    def __init__(self, path: Path, file: BinaryIO, decoder: json.JSONDecoder) -> None:
        self.path, self.file, self.decoder = path, file, decoder
        self.encoding, self.start = encoding_of(file.read(4))
        """Also the bytes before ``at``."""
        self.bytes = codecs.getincrementaldecoder(self.encoding)()
        self.text, self.at, self.ended = "", 0, False
        file.seek(self.start)

    def more(self) -> None:
        """Read on. The part doubles each time while one value is incomplete."""
        self.text = self.text[self.at :]
        self.at = 0
        if len(self.text) > LARGEST:
            raise ValueError(f"a value has more than {LARGEST} letters, at byte {self.start}")
        data = self.file.read(max(_CHUNK, len(self.text)))
        self.ended = not data
        self.text += self.bytes.decode(data, final=self.ended)

    def advance(self, end: int) -> int:
        """Move to an index of ``text``; returns the number of bytes in between."""
        size = len(self.text[self.at : end].encode(self.encoding))
        self.start, self.at = self.start + size, end
        return size

    def next(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in _BLANK:
                end += 1
            self.advance(end)
            if end < len(self.text) or self.ended:
                return self.text[end : end + 1]
            self.more()

    def skip(self, letter: str) -> bool:
        """Move past a character if it is the next one."""
        if self.next() != letter:
            return False
        self.advance(self.at + 1)
        return True

    def expect(self, letter: str) -> None:
        """Move past a character."""
        if not self.skip(letter):
            raise ValueError(f"no {letter!r} at byte {self.start}")

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
                if end < len(self.text) or self.ended:  # else a number may continue
                    start = self.start
                    return Item(value, Place(self.path, start, self.advance(end)))
            self.more()

    def member(self) -> tuple[str, Item]:
        """The next name and value."""
        if self.next() != '"':
            raise ValueError(f"no name at byte {self.start}")
        name = self.value().value
        self.expect(":")
        return name, self.value()
