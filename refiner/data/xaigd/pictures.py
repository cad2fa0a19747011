"""X-AIGD's images inside the published parquet files, in the column ``image`` beside the labels.

A cell is the bytes of an image file, or ``{"bytes": ..., "path": ...}`` as the package datasets writes it. Nothing is
unpacked to disk. A few images are in memory at a time, and reading the next one is cheap.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image

from refiner.errors import InputError
from refiner.images import FORMATS, load_image

COLUMN: Final = "image"
_AHEAD: Final = 4
"""Images that are in memory at a time."""


class ParquetRows:
    """Reads rows by file and number; fastest in order. A pickled copy holds no open file.

    Args:
        columns: that are read, if a file has them.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._file: Path | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._row, self._end = 0, 0
        """Number of the next row, and of the first row after its group."""

    def __reduce__(self) -> tuple[type[ParquetRows], tuple[tuple[str, ...]]]:
        return ParquetRows, (self.columns,)

    def read(self, file: Path, row: int) -> dict[str, Any]:
        """Columns of a row, by name.

        Raises:
            InputError: the file cannot be read.
        """
        from pyarrow import ArrowException

        try:
            if file != self._file or not self._row <= row < self._end:
                self._open(file, row)
            found = next(islice(self._rows, row - self._row, None))
            self._row = row + 1
        except (ArrowException, OSError, ValueError, StopIteration) as error:
            self._file = None
            raise InputError(f"Cannot read row {row} of {str(file)!r} ({error!r}): download the file again.") from error
        return found

    def _open(self, file: Path, row: int) -> None:
        from pyarrow.parquet import ParquetFile

        table, start = ParquetFile(file, memory_map=True), 0
        for group in range(table.num_row_groups):
            end = start + table.metadata.row_group(group).num_rows
            if row < end:
                batches = table.iter_batches(_AHEAD, row_groups=[group], columns=list(self.columns), use_threads=False)
                self._rows = (found for batch in batches for found in batch.to_pylist())
                self._file, self._row, self._end = file, start, end
                return
            start = end
        raise ValueError(f"no row {row} among {start}")


def decoded(data: bytes, where: str) -> Image.Image:
    """Decode an image file; upright RGB.

    Args:
        data: the bytes.
        where: the source of the bytes, for messages.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return load_image(image)
    except InputError as error:
        raise InputError(f"In {where}: {error}") from error
    except Exception as error:  # a decoder can raise anything on damaged data
        raise InputError(f"Cannot read the image in {where} ({error!r}): download the file again.") from error
