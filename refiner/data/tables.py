"""CSV files, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from refiner.errors import InputError


def read_csv(path: str | Path, columns: Sequence[str], what: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its (last) line in the file.

    Missing cells of a short row are empty texts; extra cells of a long row are under the empty name.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: names that the header must have.
        what: the content of the file in words, for messages.

    Raises:
        InputError: the file cannot be read as CSV, or its header lacks a column.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            header = list(reader.fieldnames or ())
            lacking = [name for name in columns if name not in header]
            if lacking:
                found = ", ".join(header) or "no header"
                raise InputError(
                    f"Expected the columns {', '.join(columns)} in {str(path)!r}, got {found}: "
                    f"give a UTF-8 CSV file of {what} with {', '.join(lacking)}."
                )
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"Cannot read {what} from {str(path)!r} ({reason}): give a UTF-8 CSV file of {what}."
        ) from error
