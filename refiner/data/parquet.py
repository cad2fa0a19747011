"""Data sets in parquet files, as the Hugging Face hub has them: rows, and the images inside them.

A cell with an image is the bytes of an image file, or ``{"bytes": ..., "path": ...}`` as the package datasets writes
it. Nothing is unpacked to disk. A few images are in memory at a time, and reading the next one is cheap.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from refiner.data.json_stream import Place
from refiner.errors import InputError, MissingExtraError
from refiner.images import load_image, open_image
from refiner.reading import reason_of

_AHEAD: Final = 4
"""Images that are in memory at a time."""


def stream_rows(file: Path, columns: Sequence[str], what: str) -> Iterator[tuple[str, Any, Place]]:
    """Each row: its place in words, its columns by name, and its place; a row that cannot be read is None.

    Args:
        file: a parquet file.
        columns: that are read, if the file has them; a column with images is better left out.
        what: the content of the file in words, for messages.

    Raises:
        InputError: the file is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("Reading parquet files", "pyarrow", "evaluate") from error
    try:
        with ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=64, columns=list(columns)):
                for row in _values(batch):
                    yield f"record {number}", row, Place(file, number, 0)
                    number += 1
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"Cannot read {what} in {str(file)!r} ({reason_of(error)}): download the file again."
        ) from error


def _values(batch: Any) -> list[Any]:
    """The rows of a batch; None for one with a text that is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_value(batch.slice(at, 1)) for at in range(batch.num_rows)]


def _value(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return None


class ParquetRows:
    """Reads rows by file and number; fastest in order. A pickled copy holds no open file.

    Args:
        columns: that are read, if a file has them.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._file: Path | None = None
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        """The batch that was read last."""
        self._start, self._end = 0, 0
        """Number of its first row, and of the first row after its group."""

    def __reduce__(self) -> tuple[type[ParquetRows], tuple[tuple[str, ...]]]:
        return ParquetRows, (self.columns,)

    def read(self, file: Path, row: int) -> dict[str, Any]:
        """Columns of a row, by name.

        Raises:
            InputError: the file cannot be read.
        """
        from pyarrow import ArrowException

        try:
            if file != self._file or not self._start <= row < self._end:
                self._open(file, row)
            while row >= self._start + self._batch.num_rows:
                self._start += self._batch.num_rows
                self._batch = next(self._batches)
            found: dict[str, Any] = self._batch.slice(row - self._start, 1).to_pylist()[0]
        except (ArrowException, OSError, ValueError, StopIteration) as error:
            self._file = None
            raise InputError(
                f"Cannot read row {row} of {str(file)!r} ({reason_of(error)}): download the file again."
            ) from error
        return found

    def _open(self, file: Path, row: int) -> None:
        from pyarrow.parquet import ParquetFile

        table, start = ParquetFile(file, memory_map=True), 0
        for group in range(table.num_row_groups):
            end = start + table.metadata.row_group(group).num_rows
            if row < end:
                columns = list(self.columns)
                self._batches = table.iter_batches(_AHEAD, row_groups=[group], columns=columns, use_threads=False)
                self._batch = next(self._batches)
                self._file, self._start, self._end = file, start, end
                return
            start = end
        raise ValueError(f"no row {row} among {start}")


def image_bytes(cell: Any) -> bytes | None:
    """The image file in a cell; None if there is none."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) and data else None


def decoded(data: bytes, where: str) -> Image.Image:
    """Decode an image file; upright RGB.

    Args:
        data: the bytes.
        where: the source of the bytes, for messages.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            return load_image(image)
    except InputError as error:
        raise InputError(f"In {where}: {error}") from error
    except Exception as error:  # a decoder can raise anything on damaged data
        raise InputError(f"Cannot read the image in {where} ({reason_of(error)}): download the file again.") from error
