"""Write a data set in another format, sample by sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TextIO

from refiner.data.fakexplained.images import IMAGES
from refiner.data.problems import Problem, UnusableError
from refiner.data.samples import DataSet
from refiner.data.writing.coco import write_coco
from refiner.data.writing.entries import Entry, entry_of
from refiner.data.writing.names import FileNames
from refiner.data.writing.own import write_own
from refiner.data.writing.swift import write_swift
from refiner.errors import InputError, OutputError
from refiner.files import atomic_stream, check_writable
from refiner.images import save_png
from refiner.types import Size


class Format(NamedTuple):
    """A format of annotations."""

    file: str
    """Name of the file of annotations."""
    write: Callable[[Iterable[Entry], TextIO], None]
    """Writes the annotations as the entries come, one after the other."""


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "coco": Format("annotations.json", write_coco),
        "ms-swift": Format("annotations.jsonl", write_swift),
        "refiner": Format("annotations.jsonl", write_own),
    }
)
"""Name -> format."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written."""

    annotations: Path
    images: Path
    """Folder of the images."""
    samples: int
    regions: int
    left_out: int
    """Samples that could not be converted."""


def check_target(target: Path) -> None:
    """Check that a folder can be written.

    Raises:
        OutputError: it exists and is not an empty folder.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{str(target)!r} is not an empty folder: choose one that does not exist yet.")


def convert_data(
    data: DataSet,
    target: str | Path,
    to: str,
    problems: list[Problem],
    *,
    numbers: Iterable[int] | None = None,
    note_path: Callable[[int, str], None] = lambda _number, _path: None,
) -> Converted:
    """Write a data set in another format: images as PNG files, and one file of annotations beside them.

    One sample at a time is in memory. The file of annotations gets its name last, so that an interrupted run leaves
    none. A run that fails removes its images, too.

    Kinds of problems: ``unreadable_sample``, ``no_image``, ``no_label`` and ``real_with_regions`` (the sample is left
    out), ``unplaced_region`` and ``small_part`` (left out of the sample), ``empty_text`` (kept).

    Args:
        data: the data set.
        target: a folder that does not exist yet, or is empty.
        to: a name of ``FORMATS``.
        problems: gets the problems.
        numbers: of the samples, from 0; None for all.
        note_path: is told the number of each sample that is written, and the path of its image below ``images/``.

    Raises:
        InputError: no sample could be converted.
        OutputError: the target is not empty, or cannot be written.
    """
    folder, (file, write) = Path(target), FORMATS[to]
    check_target(folder)
    new = not folder.exists()
    check_writable(folder / IMAGES)
    source = _Source(data, folder / IMAGES, problems, note_path)
    try:
        with atomic_stream(folder / file) as stream:
            write(source.entries(range(len(data.names)) if numbers is None else numbers), stream)
            if not source.samples:
                raise InputError(
                    f"Expected samples that can be converted, got none of {source.left_out}: fix the problems listed "
                    "above, or choose another data set."
                )
    except BaseException:
        shutil.rmtree(folder if new else folder / IMAGES, ignore_errors=True)
        raise
    return Converted(
        annotations=folder / file,
        images=folder / IMAGES,
        samples=source.samples,
        regions=source.regions,
        left_out=source.left_out,
    )


class _Source:
    """Reads samples, and writes their images into a folder."""

    def __init__(
        self, data: DataSet, folder: Path, problems: list[Problem], note_path: Callable[[int, str], None]
    ) -> None:
        self.data, self.folder, self.problems, self.note_path = data, folder, problems, note_path
        self.samples = self.regions = self.left_out = 0
        self._names = FileNames()
        self._folders = {folder}

    def entries(self, numbers: Iterable[int]) -> Iterator[Entry]:
        """The samples that can be converted, each after its image was written."""
        for number in numbers:
            name = self.data.names[number]
            try:
                entry = self._entry(number, name)
            except InputError as error:
                self.problems.append(Problem("unreadable_sample", f"{name!r:.200}", "", str(error)))
            except UnusableError as error:
                self.problems.append(Problem(error.kind, f"{name!r:.200}", "", str(error)))
            else:
                self.samples += 1
                self.note_path(number, entry.image)
                self.regions += len(entry.flaws)
                yield entry
                continue
            self.left_out += 1

    def _entry(self, number: int, name: str) -> Entry:
        sample = self.data.load(number)
        if sample.image is None:
            raise UnusableError("no_image", "the data set has only its prompt; left out")

        def note(kind: str, detail: str) -> None:
            self.problems.append(Problem(kind, f"{name!r:.200}", "", detail))

        size = Size(sample.image.height, sample.image.width)
        entry = entry_of(sample, self._names.of(name), size, note)
        path = self.folder / entry.image
        if path.parent not in self._folders:
            self._folders.add(check_writable(path.parent))
        save_png(sample.image, path)
        return entry
