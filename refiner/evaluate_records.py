"""The records of a run on disk: JSON Lines that grow by whole batches, and are read one by one in order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from refiner.errors import OutputError
from refiner.runs import Json


class Records:
    """Records of one file or several, read one by one in the order of the data set.

    Where a sample has several records the first without an error counts, else the last. A line that is no whole record,
    such as the last one of a run that was killed, is passed over.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        self._places: dict[int, tuple[int, int, bool]] = {}
        for number, file in enumerate(self.files):
            for start, record in _lines(file):
                known = self._places.get(record["index"])
                failed = record["error"] is not None
                if known is None or known[2]:
                    self._places[record["index"]] = number, start, failed

    def __len__(self) -> int:
        return len(self._places)

    def done(self) -> set[int]:
        """Numbers of the samples that need not be run again."""
        return {index for index, (_, _, failed) in self._places.items() if not failed}

    def __getitem__(self, index: int) -> Json:
        """The record of a sample."""
        number, start, _ = self._places[index]
        with self.files[number].open("rb") as file:
            file.seek(start)
            record: Json = json.loads(file.readline())
        return record

    def __iter__(self) -> Iterator[Json]:
        handles = [file.open("rb") for file in self.files]
        try:
            for index in sorted(self._places):
                number, start, _ = self._places[index]
                handles[number].seek(start)
                yield json.loads(handles[number].readline())
        finally:
            for handle in handles:
                handle.close()


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
    except ValueError:
        return None
    usable = isinstance(record, dict) and isinstance(record.get("index"), int) and "error" in record
    return record if usable else None


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
