"""The records of a run on disk: JSON Lines that grow by whole batches, or Parquet, written when the run is done.

A Parquet file cannot be read before its last byte is written. So the records of a run, which may be killed, are JSON
Lines first and become ``.parquet`` in one step at the end. A row has ``index``, ``name``, ``group``, ``prompt`` and
``error`` (its kind, or null) for other tools, and ``record``, the line that JSON Lines would have.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError, MissingExtraError, OutputError
from refiner.files import Json, lock_file
from refiner.reading import reason_of

RecordsFormat = Literal["parquet", "jsonl"]
"""In the order in which they are read: JSON Lines are newer."""

_TEXTS: Final = ("name", "group", "prompt")
_ROWS: Final = 64
"""Records in a row group; one row group is in memory at a time."""


class Records:
    """Records of one or more files, read one by one in the order of the data set.

    If a sample has several records, the first without an error counts, else the last. A line that is not a whole
    record, such as the last line of a run that was killed, is skipped.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        indices, numbers, starts, failed = array("q"), array("H"), array("q"), array("b")
        for number, file in enumerate(self.files):
            with _reader(file) as reader:
                for start, record in reader.entries():
                    indices.append(record["index"])
                    numbers.append(number)
                    starts.append(start)
                    failed.append(record["error"] is not None)
        met = np.arange(len(indices))
        bad = np.array(failed, dtype=np.bool_)
        order = np.lexsort((np.where(bad, -met, met), bad, np.array(indices)))
        self._indices, first = np.unique(np.array(indices)[order], return_index=True)
        chosen = order[first]
        self._numbers, self._starts, self._failed = np.array(numbers)[chosen], np.array(starts)[chosen], bad[chosen]

    def __len__(self) -> int:
        return len(self._indices)

    def done(self) -> NDArray[np.int64]:
        """Numbers of the samples that need not be run again, ascending."""
        return self._indices[~self._failed]

    def __getitem__(self, index: int) -> Json:
        """The record of a sample.

        Raises:
            KeyError: it has none.
        """
        at = int(np.searchsorted(self._indices, index))
        if at == len(self) or self._indices[at] != index:
            raise KeyError(index)
        with _reader(self.files[self._numbers[at]]) as reader:
            return reader.at(int(self._starts[at]))

    def __iter__(self) -> Iterator[Json]:
        with ExitStack() as stack:
            readers = [stack.enter_context(_reader(file)) for file in self.files]
            for number, start in zip(self._numbers, self._starts, strict=True):
                yield readers[number].at(int(start))


class _LineReader:
    """Reads the record ``at`` a place, and lists ``entries``: place, ``index`` and ``error`` of each whole record.

    Places are byte offsets.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def at(self, place: int) -> Json:
        self.file.seek(place)
        record: Json = json.loads(self.file.readline())
        return record

    def entries(self) -> Iterator[tuple[int, Json]]:
        start = 0
        for line in self.file:
            record = _parsed(line)
            if record is not None:
                yield start, record
            start += len(line)


class _RowReader:
    """As ``_LineReader``. Places are row numbers; the row group that was read last is kept."""

    def __init__(self, table: Any) -> None:
        self.table = table
        counts = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        self.ends = np.cumsum(counts)
        self.group, self.lines = -1, list[str]()

    def at(self, place: int) -> Json:
        group = int(np.searchsorted(self.ends, place, side="right"))
        if group != self.group:
            column = self.table.read_row_group(group, columns=["record"], use_threads=False).column("record")
            self.group, self.lines = group, column.to_pylist()
        record: Json = json.loads(self.lines[place - int(self.ends[group])])
        return record

    def entries(self) -> Iterator[tuple[int, Json]]:
        place = 0
        for batch in self.table.iter_batches(batch_size=4096, columns=["index", "error"], use_threads=False):
            for record in batch.to_pylist():
                yield place, record
                place += 1


@contextmanager
def _reader(file: Path) -> Iterator[_LineReader | _RowReader]:
    if file.suffix != ".parquet":
        with file.open("rb") as lines:
            yield _LineReader(lines)
        return
    parquet = need_parquet()
    try:
        with parquet.ParquetFile(file) as table:
            yield _RowReader(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The records in {str(file)!r} cannot be read ({reason_of(error)}): delete the file and pass --resume."
        ) from error


def need_parquet() -> Any:
    """``pyarrow.parquet``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Records as Parquet", "pyarrow", "evaluate") from error
    return parquet


def to_lines(files: Sequence[Path], target: Path) -> None:
    """Put the records of files into one file of JSON Lines, in order; it gets its name when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    with Appending(part, truncate=True) as out:
        for record in Records(files):
            out.write([record])
    part.replace(target)


def to_parquet(files: Sequence[Path], target: Path) -> None:
    """Put the records of files into one Parquet file, in order; it gets its name when it is whole.

    Raises:
        OutputError: it cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    parquet, part = need_parquet(), target.with_name(f".{target.name}.part")
    import pyarrow

    text = pyarrow.string()
    fields = [("index", pyarrow.int64()), *((name, text) for name in (*_TEXTS, "error", "record"))]
    try:
        with parquet.ParquetWriter(part, pyarrow.schema(fields), compression="zstd") as writer:
            records = iter(Records(files))
            while rows := [_row(record) for record in islice(records, _ROWS)]:
                writer.write_table(pyarrow.Table.from_pylist(rows, writer.schema), row_group_size=_ROWS)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise unwritten(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _row(record: Json) -> Json:
    """A row of Parquet. Its texts must be valid Unicode: other bytes become question marks (``record`` keeps them)."""
    texts: Json = {name: record[name].encode("utf-8", "replace").decode() for name in _TEXTS if name in record}
    error = record["error"] and record["error"]["kind"]
    return {"index": record["index"], **texts, "error": error, "record": json.dumps(record)}


def _parsed(line: bytes) -> Json | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("index"), int) or "error" not in record:
        return None
    return record if 0 <= record["index"] < 2**63 else None


class Appending:
    """A file that grows by whole lines. An unfinished line of a killed run is ended first.

    No other process can append to it meanwhile, on systems with ``flock``.

    Args:
        path: of the file; made if it is missing.
        truncate: drop the content of the file.

    Raises:
        OutputError: it cannot be written, or another process appends to it.
    """

    def __init__(self, path: Path, *, truncate: bool = False) -> None:
        self.path = path
        try:
            self.file = path.open("wb" if truncate else "ab", buffering=0)
        except OSError as error:
            raise unwritten(path, error) from error
        if not lock_file(self.file):
            self.file.close()
            raise OutputError(f"Another process writes {str(path)!r}: wait for it, or name another folder.")
        try:
            if not truncate and not _ends_in_newline(path):
                self.file.write(b"\n")
        except OSError as error:
            raise unwritten(path, error) from error

    def __enter__(self) -> Appending:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, records: Sequence[Json]) -> None:
        """Append records; the operating system has them when this returns.

        Raises:
            OutputError: they cannot be written.
        """
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            raise unwritten(self.path, error) from error


def unwritten(path: Path, error: OSError) -> OutputError:
    """The error of a file that cannot be written."""
    return OutputError(f"{str(path)!r} cannot be written ({error!r}): choose a folder on a disk with free space.")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
