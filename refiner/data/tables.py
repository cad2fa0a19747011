"""CSV files, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from refiner.errors import InputError


def read_csv(path: str | Path, columns: Sequence[str], what: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its (last) line in the file.

    Cells that a short row lacks are empty texts; those that a long row has too many stand under the empty name.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: names that the header must have.
        what: the file's content in words, for messages.

    Raises:
        InputError: the file cannot be read as CSV, or its header lacks a column.
    """
    advice = f"give a UTF-8 CSV file of {what}"
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            header = list(reader.fieldnames or ())
            lacking = [name for name in columns if name not in header]
            if lacking:
                found = ", ".join(header) or "no header"
                raise InputError(
                    f"Expected the columns {', '.join(columns)} in {str(path)!r}, got {found}: "
                    f"{advice} with {', '.join(lacking)}."
                )
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"Expected {what} in {str(path)!r}, got {str(error)!r}: {advice}.") from error
