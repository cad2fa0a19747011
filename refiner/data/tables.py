"""CSV files, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from refiner.errors import InputError
from refiner.reading import encoding_of, reason_of, shown

_SEPARATORS: Final = ",;\t"
"""Spreadsheets write semicolons where the comma is the decimal point, and tabs with UTF-16."""
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def read_csv(
    path: str | Path, columns: Sequence[str], what: str, spellings: Mapping[str, str] = _NONE
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its (last) line in the file.

    The separator is a comma, a semicolon or a tab: the one that gives the header the most columns. Missing cells of a
    short row are empty texts; extra cells of a long row are under the empty name.

    Args:
        path: UTF-8 or UTF-16, with or without a byte order mark.
        columns: names that the header must have.
        what: the content of the file in words, for messages.
        spellings: other spelling of a column -> its name in ``columns``; the first one counts that the header has.

    Raises:
        InputError: the file cannot be read as CSV, or its header lacks a column.
    """
    try:
        with Path(path).open("rb") as file:
            encoding, mark = encoding_of(file.read(4))
            file.seek(mark)
            text = io.TextIOWrapper(file, encoding, newline="")
            head = text.readline(csv.field_size_limit())
            separator = max(_SEPARATORS, key=head.count)
            text.seek(mark)
            reader = csv.DictReader(text, restkey="", restval="", strict=True, delimiter=separator)
            header = _renamed(list(reader.fieldnames or ()), spellings)
            lacking = [name for name in columns if name not in header]
            if lacking:
                found = ", ".join(header) or "no header"
                raise InputError(
                    f"Expected the columns {', '.join(columns)} in {str(path)!r}, got {shown(found)}: "
                    f"give a UTF-8 CSV file of {what} with {', '.join(lacking)}."
                )
            reader.fieldnames = header
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"Cannot read {what} from {str(path)!r} ({reason_of(error)}): give a UTF-8 CSV file of {what}."
        ) from error


def _renamed(header: list[str], spellings: Mapping[str, str]) -> list[str]:
    """The header in our spelling."""
    for other, name in spellings.items():
        if name not in header and other in header:
            header[header.index(other)] = name
    return header
