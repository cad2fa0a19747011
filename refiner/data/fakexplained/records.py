"""The records of a file of FakeXplained, each read by what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from refiner.data.fakexplained.images import FakexplainedImage
from refiner.data.fakexplained.own import read_own
from refiner.data.fakexplained.swift import first_path, is_swift, read_swift
from refiner.data.json_stream import Place, read_again, stream_records
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.errors import InputError
from refiner.reading import reason_of

FILES: Final = ("annotations.jsonl", "annotations.json")


def find_records(folder: str | Path) -> Path:
    """The file of records of a folder.

    Raises:
        InputError: no such folder, no file of records in it, or two of them.
    """
    files = [Path(folder) / name for name in FILES if (Path(folder) / name).is_file()]
    if len(files) != 1:
        found = " and ".join(file.name for file in files) or "none"
        raise InputError(
            f"Expected one of {' and '.join(FILES)} in {str(folder)!r}, got {found}: name the data set's folder."
        )
    return files[0]


def read_images(file: Path, problems: list[Problem]) -> Iterator[FakexplainedImage]:
    """Each image once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``bad_region`` (the record is left out as well), ``duplicate_image`` (the first
    record counts) and ``empty_text`` (a region without a description; it is kept).

    Raises:
        InputError: the file is damaged as a whole.
    """
    records = ((where, item.value, item.place) for where, item in stream_records(file))
    try:
        for image in usable_records(records, _read, str(file), problems, set()):
            for number, region in enumerate(image.regions):
                if not region.description:
                    text = "no description, so it scores 0 against each text"
                    problems.append(Problem("empty_text", str(file), f"{image.name}, region {number}", text))
            yield image
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read the records in {str(file)!r} ({reason_of(error)}): export the file again."
        ) from error


def read_record(place: Place) -> FakexplainedImage:
    """Read the record of an image again.

    Raises:
        InputError: the file has changed since the data set was opened.
    """
    return read_again(place, _read)


def _read(value: Any, place: Place) -> FakexplainedImage:
    if not isinstance(value, Mapping):
        raise UnusableError("bad_record", f"expected a JSON object, got {value!r:.60}")
    swift = is_swift(value)
    try:
        return read_swift(value, place) if swift else read_own(value, place)
    except UnusableError as error:
        name = first_path(value) if swift else value.get("image")
        error.where = f", {name!r:.200}" if isinstance(name, str) else ""
        raise
