"""The answers of detectors in the records of ``refiner detect`` and ``refiner evaluate`` as looks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from PIL import Image

from refiner.data.anomreason import label_of
from refiner.data.problems import Problem
from refiner.data.samples import DataSet
from refiner.data.sources import open_data
from refiner.errors import InputError, UserError
from refiner.evaluate.detecting import open_detections
from refiner.evaluate.harness import Run
from refiner.evaluate.records import Records
from refiner.evaluate.robustness import open_source
from refiner.evaluate.systems import picture_file
from refiner.files import Json
from refiner.images import load_image
from refiner.records import analysis_from_dict
from refiner.verify.candidates import Look, flaws_of_analysis

_REFINED: Final = ("before", "best")
"""The answers in a record of a refinement that are looked at; equal images once."""


class _Answer(NamedTuple):
    """One answer of a detector in a record."""

    place: str
    name: str
    analysis: Any
    picture: str | None = None
    """File of the image, from the folder of the run; None if the record does not name one."""


class RecordedLooks:
    """The answers in the records of a folder.

    A place is the number of a record, and for a refinement also the name of the answer: ``12/best``.

    Args:
        folder: of the records.
        records: of the images.
        read: reads the image of a record that does not name its file; raises InputError.
    """

    def __init__(self, folder: Path, records: Records, read: Callable[[Json], Image.Image]) -> None:
        self.folder, self.records, self.read = folder, records, read
        self.problems: list[Problem] = []
        facts = {file.name: file.stat() for file in records.files}
        self.stamp: Json = {"records": {name: [fact.st_size, fact.st_mtime_ns] for name, fact in facts.items()}}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Mapping[str, Look] | Problem]:
        for record in self.records:
            where = f"record {record['index']}"
            if record["error"] is not None:
                yield Problem("failed", str(self.folder), where, f"the detector failed: {record['error']!r:.300}")
                continue
            try:
                yield {answer.place: self._look(record, answer) for answer in self._answers(record)}
            except InputError as error:
                yield Problem("unreadable_record", str(self.folder), where, str(error))

    def load(self, place: str) -> Look:
        """Read one look again.

        Raises:
            InputError: the records have changed.
        """
        try:
            record = self.records[int(place.partition("/")[0])]
            answer = next(answer for answer in self._answers(record) if answer.place == place)
        except (KeyError, StopIteration) as error:
            raise InputError(f"The records in {str(self.folder)!r} have changed: start again.") from error
        return self._look(record, answer)

    def _answers(self, record: Json) -> Iterator[_Answer]:
        index, name, found = record["index"], record.get("name"), record.get("answer")
        if not isinstance(name, str) or not isinstance(found, dict):
            raise InputError(f"Expected a name and an answer, got {name!r:.60} and {found!r:.60}: run it again.")
        if "before" not in found:
            yield _Answer(str(index), name, found.get("analysis"))
            return
        shown = set[str]()
        for key in _REFINED:
            look = found.get(key)
            if not isinstance(look, dict) or not isinstance(look.get("picture"), str):
                raise InputError(f"Expected the file of the image {key!r}, got {look!r:.60}: run it again.")
            if look["picture"] not in shown:
                shown.add(look["picture"])
                yield _Answer(f"{index}/{key}", f"{name}/{key}", look.get("analysis"), look["picture"])

    def _look(self, record: Json, answer: _Answer) -> Look:
        analysis = analysis_from_dict(answer.analysis)
        group, picture = record.get("group"), record.get("picture")

        def read() -> Image.Image:
            return self.read(record) if answer.picture is None else load_image(self.folder / answer.picture)

        return Look(
            name=answer.name,
            group=group if isinstance(group, str) else "",
            fake=None if answer.picture is not None else _label(record),
            size=analysis.size,
            flaws=flaws_of_analysis(analysis),
            detector=analysis.detector,
            read=read,
            picture=picture if isinstance(picture, str) else None,
        )


def _label(record: Json) -> bool | None:
    """Whether an image is generated, by the truth in its record, else by its name; None if unknown."""
    truth = record.get("truth")
    fake = truth.get("fake") if isinstance(truth, dict) else None
    return fake if isinstance(fake, bool) else label_of(record["name"])


def of_detections(folder: Path) -> RecordedLooks:
    """The images that ``refiner detect --out`` analysed."""
    opened = functools.cache(open_data)

    def read(record: Json) -> Image.Image:
        file, data = record.get("file"), record.get("data")
        if isinstance(file, str):
            return load_image(folder / file)
        if isinstance(data, str):
            return _of_data(opened(data), record["name"])
        raise InputError(
            f"Expected a file or a data set in the record of {record['name']!r}: run refiner detect again."
        )

    return RecordedLooks(folder, open_detections(folder), read)


def of_run(run: Run) -> RecordedLooks:
    """The images of a run of ``refiner evaluate``, or of one generator of ``refiner rank``."""
    opened = functools.cache(lambda: open_source(run.description["data"]))

    def read(record: Json) -> Image.Image:
        generated = picture_file(run.folder, record["name"])
        if generated.is_file():
            return load_image(generated)
        try:
            return _of_data(opened(), record["name"])
        except (KeyError, UserError) as error:
            raise InputError(
                f"Cannot read the image of {record['name']!r} again ({error}): run refiner verify in the folder that "
                "the run was started in."
            ) from error

    return RecordedLooks(run.folder, run.records, read)


def _of_data(data: DataSet, name: str) -> Image.Image:
    """The image of a sample.

    Raises:
        InputError: there is no such sample, or it has no image.
    """
    number = _numbers(data.names).get(name)
    image = None if number is None else data.load(number).image
    if image is None:
        raise InputError(f"The data set has no image {name!r} any more: run the detector again.")
    return image


@functools.lru_cache(maxsize=1)
def _numbers(names: tuple[str, ...]) -> Mapping[str, int]:
    """Number of each sample by its name, and, if only one fits, by its name without suffix, as in ``refiner rank``."""
    plain = [PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name for name in names]
    times = Counter(plain)
    found = {name: number for number, name in enumerate(plain) if times[name] == 1}
    return found | {name: number for number, name in enumerate(names)}
