"""Where candidates come from: records of ``refiner detect``, runs of ``refiner evaluate``, and data sets with truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from refiner.data.problems import Problem
from refiner.data.samples import DataSet, Sample, digest
from refiner.data.sources import contents, open_data
from refiner.errors import ConfigError, InputError
from refiner.evaluate.detecting import RECORDS_FILE, holds_detections
from refiner.evaluate.harness import RUN_FILE, open_run
from refiner.files import Json
from refiner.types import Size
from refiner.verify.candidates import Look, flaws_of_sample
from refiner.verify.recorded import of_detections, of_run

_OLD_FILE: Final = "detect.json"
"""Without ``RECORDS_FILE``, an earlier version of ``refiner detect`` wrote the folder."""


class Source(Protocol):
    """Images with claims about them."""

    stamp: Json
    """Another stamp means that the candidates may be others."""
    problems: list[Problem]
    """Problems of the source as a whole."""

    def __len__(self) -> int:
        """Number of entries."""
        ...

    def __iter__(self) -> Iterator[Mapping[str, Look] | Problem]:
        """The entries in order: the looks of a record or sample, by their places, or why there is none.

        A place is a short text by which ``load`` reads a look again.
        """
        ...

    def load(self, place: str) -> Look:
        """Read one look again.

        Raises:
            InputError: it cannot be read.
        """
        ...


def open_looks(specification: str, *, references: str | None = None) -> Source:
    """Open the source of candidates.

    Args:
        specification: a folder that ``refiner detect --out`` or ``refiner evaluate --out`` wrote, or a data set as
            ``open_data`` takes it.
        references: AnomReason's JSON of file name -> anomalies, for a folder of images.

    Raises:
        ConfigError: references for a folder of results, or as ``open_data``.
        InputError: there is no such folder or data set, or it cannot be read.
    """
    folder = Path(specification)
    if not is_results(specification):
        if (folder / _OLD_FILE).is_file():
            raise InputError(
                f"{specification!r} has no {RECORDS_FILE}, because an earlier version of refiner detect wrote it: run "
                "refiner detect again."
            )
        return AnnotatedLooks(open_data(specification, references=references), specification, references)
    if references is not None:
        raise ConfigError(f"Expected no references for the folder of results {specification!r}: leave them out.")
    return of_detections(folder) if holds_detections(folder) else of_run(open_run(folder))


def is_results(specification: str) -> bool:
    """Whether a specification names a folder with the records of a detector, in contrast to a data set."""
    return any((Path(specification) / name).is_file() for name in (RUN_FILE, RECORDS_FILE))


class AnnotatedLooks:
    """The truth of a data set, sample by sample. A place is the number of a sample."""

    def __init__(self, data: DataSet, specification: str, references: str | None) -> None:
        self.data, self.specification, self.problems = data, specification, list(data.problems)
        texts = contents(specification, references=references)
        self.stamp: Json = {"data": specification, "contents": texts, "names": digest(data.names)}

    def __len__(self) -> int:
        return len(self.data.names)

    def __iter__(self) -> Iterator[Mapping[str, Look] | Problem]:
        for number, name in enumerate(self.data.names):
            try:
                yield {str(number): self._look(self.data.load(number))}
            except InputError as error:
                yield Problem("unreadable_sample", f"{name!r:.200}", "", str(error))

    def load(self, place: str) -> Look:
        """Read one look again."""
        return self._look(self.data.load(int(place)))

    def _look(self, sample: Sample) -> Look:
        image = sample.image
        if image is None:
            raise InputError(f"The sample {sample.name!r} has only a prompt: name a data set of images.")
        if sample.truth is None and sample.anomalies is None:
            raise InputError(
                f"The sample {sample.name!r} has no truth that can be checked: run refiner detect on the data, and "
                "check its results."
            )
        return Look(
            name=sample.name,
            group=sample.group,
            fake=sample.fake,
            size=Size(image.height, image.width),
            flaws=flaws_of_sample(sample),
            detector=self.specification if sample.truth is None else sample.truth.detector,
            read=lambda: image,
        )
