"""The records of a run on disk: JSON Lines that grow by whole batches, and are read one by one in order."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.errors import OutputError
from refiner.runs import Json


class Records:
    """Records of one file or several, read one by one in the order of the data set.

    Where a sample has several records the first without an error counts, else the last. A line that is no whole record,
    such as the last one of a run that was killed, is passed over.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        indices, numbers, starts, failed = array("q"), array("H"), array("q"), array("b")
        for number, file in enumerate(self.files):
            for start, record in _lines(file):
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
        with self.files[self._numbers[at]].open("rb") as file:
            file.seek(self._starts[at])
            record: Json = json.loads(file.readline())
        return record

    def __iter__(self) -> Iterator[Json]:
        with ExitStack() as stack:
            handles = [stack.enter_context(file.open("rb")) for file in self.files]
            for number, start in zip(self._numbers, self._starts, strict=True):
                handles[number].seek(start)
                yield json.loads(handles[number].readline())


def _lines(file: Path) -> Iterator[tuple[int, Json]]:
    """Place and record of each whole line."""
    start = 0
    with file.open("rb") as lines:
        for line in lines:
            record = _parsed(line)
            if record is not None:
                yield start, record
            start += len(line)


def _parsed(line: bytes) -> Json | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("index"), int) or "error" not in record:
        return None
    return record if 0 <= record["index"] < 2**63 else None


class Appending:
    """A file that grows by whole lines; what a killed run left of a line is closed off first.

    Args:
        path: of the file.
        anew: forget what the file holds.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self.path = path
        try:
            self.file = path.open("wb" if anew else "ab", buffering=0)
            if not anew and not _ends_in_newline(path):
                self.file.write(b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Appending:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, records: Sequence[Json]) -> None:
        """Append records; they are with the operating system when this returns.

        Raises:
            OutputError: they cannot be written.
        """
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"Expected to write {str(self.path)!r}, got {error!r}: choose a place with free space.")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
