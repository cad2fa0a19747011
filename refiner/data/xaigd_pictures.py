"""X-AIGD's pictures where they are published: inside the parquet files, in the column ``image`` beside the labels.

A cell is the file's bytes, or ``{"bytes": ..., "path": ...}`` as the package datasets writes it. Nothing is unpacked to
disk: a few pictures are in memory at a time, and reading on from the last one costs no more than that.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image

from refiner.errors import InputError
from refiner.images import FORMATS, load_image

COLUMN: Final = "image"
_AHEAD: Final = 4
"""Pictures that are in memory at a time."""


class EmbeddedPictures:
    """Reads pictures by file and row; fastest in the order of the rows. Copies (by pickle) start afresh."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._cells: Iterator[Any] = iter(())
        self._row, self._end = 0, 0
        """Number of the cell that comes next, and of the first one after its row group."""

    def __reduce__(self) -> tuple[type[EmbeddedPictures], tuple[()]]:
        return EmbeddedPictures, ()

    def read(self, file: Path, row: int) -> Image.Image | None:
        """The picture in a row, upright RGB; None where the cell holds none.

        Raises:
            InputError: the file or the picture cannot be read.
        """
        from pyarrow import ArrowException

        try:
            if file != self._file or not self._row <= row < self._end:
                self._open(file, row)
            cell = next(islice(self._cells, row - self._row, None))
            self._row = row + 1
        except (ArrowException, OSError, ValueError, StopIteration) as error:
            self._file = None
            raise InputError(
                f"Expected a picture in row {row} of {str(file)!r}, got a file that fails with {error!r}: "
                "fetch it again."
            ) from error
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        return _decoded(data, f"row {row} of {str(file)!r}") if data else None

    def _open(self, file: Path, row: int) -> None:
        from pyarrow.parquet import ParquetFile

        table, start = ParquetFile(file, memory_map=True), 0
        for group in range(table.num_row_groups):
            end = start + table.metadata.row_group(group).num_rows
            if row < end:
                batches = table.iter_batches(_AHEAD, row_groups=[group], columns=[COLUMN], use_threads=False)
                self._cells = (cell.as_py() for batch in batches for cell in batch.column(0))
                self._file, self._row, self._end = file, start, end
                return
            start = end
        raise ValueError(f"no row {row} among {start}")


def holds_pictures(file: Path) -> bool:
    """Whether a parquet file has a column of pictures."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        return COLUMN in table.schema_arrow.names


def _decoded(data: Any, where: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return load_image(image)
    except InputError as error:
        raise InputError(f"In {where}: {error}") from error
    except Exception as error:  # a decoder fed with damaged data may raise anything
        raise InputError(f"Expected a picture in {where}, got {error!r}: fetch the file again.") from error
