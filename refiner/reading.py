"""Reading files that others wrote: their paths, the encoding of text, and why a file cannot be read, in words."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Final

from refiner.errors import InputError

LARGEST: Final = 64 * 2**20
"""Bytes of a text file that is read as a whole."""
_MARKS: Final = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of a text and the length of its byte order mark.

    Args:
        head: the first three bytes or more.

    Returns:
        ``utf-16-le`` or ``utf-16-be`` after its mark, or if one of the first two bytes is 0 (a text that begins with an
        ASCII letter); else ``utf-8``.
    """
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    if b"\0" not in head[:2]:
        return "utf-8", 0
    return ("utf-16-be" if head[:1] == b"\0" else "utf-16-le"), 0


def decode(data: bytes) -> str:
    """Decode a text in UTF-8 or UTF-16, without its byte order mark.

    Raises:
        UnicodeDecodeError: it is in another encoding; ``reason_of`` words it.
    """
    encoding, mark = encoding_of(data)
    return data[mark:].decode(encoding)


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        OSError, ValueError: it cannot be read, is in another encoding, or has more than ``LARGEST`` bytes;
            ``reason_of`` words it.
    """
    with Path(path).open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    return decode(data)


def check_path(path: str | Path) -> None:
    """Check that the system can look for a file or folder; one that does not exist passes.

    Raises:
        InputError: the path is longer than the system allows, holds a zero byte, or may not be looked at.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot open {str(path)!r:.200} ({reason_of(error)}): check the path.") from error


def reason_of(error: BaseException) -> str:
    """Why something cannot be read, in a few words on one line; never the bytes of the file."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not {error.encoding.upper()} text"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half of a surrogate pair, which is no letter"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"{error!s:.80} is missing"
    text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    return shown(text) or type(error).__name__


def shown(text: str, longest: int = 200) -> str:
    """A text of a file as a message shows it: shortened, on one line, with escapes if a letter cannot be printed."""
    line = " ".join(text[: 2 * longest].split())
    return line[:longest] if line.isprintable() else f"{line[:longest]!r:.{longest}}"
