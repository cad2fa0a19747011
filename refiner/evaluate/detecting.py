"""What ``refiner detect`` keeps of an analysis: the records of ``refiner.evaluate``, and where to find the image.

The records have three more fields than others: ``file``, the path of the image from the folder of the run, or ``data``,
the data set that has the image under the record's ``name``; and ``picture``, the ``picture_digest`` of the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

from PIL import Image

from refiner.answers import prompted_outcomes, value_of
from refiner.data.samples import DataSet, Sample
from refiner.errors import ConfigError, InputError, ModelError, RefinerError
from refiner.evaluate.harness import PROBLEMS_FILE, RUN_FILE, Answer, Engine, Shard, System, read_description
from refiner.evaluate.records import Appending, Records, unwritten
from refiner.files import Json
from refiner.ledger import Ledger, ledgers_of
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Concurrent
from refiner.records import analysis_to_dict, picture_digest
from refiner.types import Analysis

TASK: Final = "detect"
RECORDS_FILE: Final = "records.jsonl"
DOCUMENT_FILE: Final = "detect.json"
"""What ``refiner detect --json`` prints."""


class Detecting:
    """Analyses images with a detector: a system of the harness.

    Args:
        detector: finds the flaws of images; also a function of an image (see ``refiner.plain.as_detector``).
        batch_size: images that the detector gets at once, at least 1.

    Raises:
        ConfigError: the detector cannot be called with an image, or the batch size is below 1.
    """

    def __init__(self, detector: DetectorLike, *, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ConfigError(f"Expected a batch size of at least 1, got {batch_size}: choose a larger one.")
        self.detector, self.batch_size = as_detector(detector), batch_size

    @property
    def concurrency(self) -> int:
        """Images that the detector may get at the same time, from several threads; 1: only from one."""
        return self.detector.concurrency if isinstance(self.detector, Concurrent) else 1

    def identity(self) -> Json:
        """The detector."""
        return {"detector": self.detector.name}

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of the detector, by model."""
        return ledgers_of([self.detector])

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """``analysis`` of each image, without its heat map, and ``picture``, the digest of the image; or the error.

        Raises:
            InputError: a sample without an image.
            UserError: the detector cannot be used at all, for example because its key is missing.
        """
        images = [_image(sample) for sample in samples]
        found = prompted_outcomes(self.detector, images, [sample.prompt for sample in samples])
        return [answer_of(image, each) for image, each in zip(images, found, strict=True)]


def _image(sample: Sample) -> Image.Image:
    if sample.image is None:
        raise InputError("Expected images, got only prompts: name a data set of images.")
    return sample.image


def answer_of(image: Image.Image, outcome: Analysis | RefinerError) -> Answer:
    """What is kept of the analysis of an image; the error if there is none, unless that ends the run."""
    if isinstance(outcome, ModelError | InputError):
        return outcome
    kept = analysis_to_dict(replace(value_of(outcome), heatmap=None), arrays=True)
    return {"analysis": kept, "picture": picture_digest(image), "notes": []}


def located(engine: Engine, folder: Path, data: str | None) -> Engine:
    """The engine, with the place of the image in each record.

    Args:
        engine: makes the records.
        folder: of the run.
        data: specification of the data set; None if names are paths of files.
    """

    def run(images: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        for rows in engine(images, system, indices):
            for row in rows:
                place = {"data": data} if data is not None else {"file": _from_there(row["name"], folder)}
                answer = row["answer"]
                row.update(place, picture=None if answer is None else answer.pop("picture"))
            yield rows

    return run


def _from_there(file: str, folder: Path) -> str:
    """The path of a file from a folder, so that both can be moved together."""
    try:
        return os.path.relpath(file, folder)
    except ValueError:  # on another drive
        return str(Path(file).absolute())


def holds_detections(folder: str | Path) -> bool:
    """Whether ``refiner detect`` wrote the folder, in this version or in one that wrote no ``run.json``.

    Raises:
        InputError: its ``run.json`` cannot be read.
    """
    root = Path(folder)
    if (root / RUN_FILE).is_file():
        return bool(read_description(root)["task"] == TASK)
    return (root / RECORDS_FILE).is_file()


def open_detections(folder: str | Path) -> Records:
    """The records of a folder that ``refiner detect`` wrote.

    Raises:
        InputError: there are none.
    """
    file = Path(folder) / RECORDS_FILE
    if not file.is_file():
        raise InputError(f"{str(folder)!r} has no {RECORDS_FILE}: run refiner detect again.")
    return Records([file])


def set_aside(folder: Path) -> str:
    """Rename the files of an earlier run of ``refiner detect``, so that a new one may begin.

    Returns:
        The new name of its records, such as ``records.jsonl.1``; "" if there was no such run.

    Raises:
        InputError: its ``run.json`` cannot be read.
        OutputError: another process writes the records, or the files cannot be renamed.
    """
    files = [folder / name for name in (RECORDS_FILE, Shard().ledger, PROBLEMS_FILE, DOCUMENT_FILE, RUN_FILE)]
    if not holds_detections(folder):
        return ""
    ending = next(f".{number}" for number in count(1) if not any(_ended(file, f".{number}").exists() for file in files))
    with Appending(files[0]):  # fails while another process writes them
        pass
    try:
        for file in files:
            if file.exists():
                file.rename(_ended(file, ending))
    except OSError as error:
        raise unwritten(folder, error) from error
    return RECORDS_FILE + ending


def _ended(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)
