"""What ``refiner detect --out`` keeps of its answers: one record for each image, in a file of JSON Lines.

The records are those of ``refiner.evaluate``, with three more fields: ``file``, the path of the image from the folder
of the records, or ``data``, the data set that has the image under the record's ``name``; and ``picture``, the
``picture_digest`` of the image.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from PIL import Image

from refiner.errors import RefinerError
from refiner.files import Json, atomic_write, dumps
from refiner.records import analysis_to_dict, picture_digest
from refiner.types import Analysis

RECORDS_FILE: Final = "records.jsonl"


class Detections:
    """The records of a run.

    Args:
        folder: where they will be written; None to keep nothing.
        data: the specification of the data set; None for image files.
    """

    def __init__(self, folder: Path | None, data: str | None = None) -> None:
        self.folder, self.data = folder, data
        self._lines: list[str] = []

    def add(
        self, index: int, name: str, prompt: str | None, outcome: tuple[Image.Image, Analysis] | RefinerError
    ) -> None:
        """Add the record of an image.

        Args:
            index: of the image in the run.
            name: the path of the image, or its name in the data set.
            prompt: of the image; None if there is none.
            outcome: the image and what was found in it, without the heat map; or why nothing is known about it.
        """
        if self.folder is None:
            return
        place = {"data": self.data} if self.data is not None else {"file": _from_there(name, self.folder)}
        record: Json = {"index": index, "name": name, "prompt": prompt or "", **place}
        if isinstance(outcome, RefinerError):
            record |= {"picture": None, "error": {"kind": type(outcome).__name__, "detail": str(outcome)}}
            record["answer"] = None
        else:
            image, analysis = outcome
            record |= {"picture": picture_digest(image), "error": None}
            record["answer"] = {"analysis": analysis_to_dict(replace(analysis, heatmap=None), arrays=True)}
        self._lines.append(dumps(record, indent=None) + "\n")

    def write(self) -> None:
        """Write the records; those of an earlier run are replaced.

        Raises:
            OutputError: they cannot be written.
        """
        if self.folder is not None:
            atomic_write(self.folder / RECORDS_FILE, "".join(self._lines))


def _from_there(file: str, folder: Path) -> str:
    """The path of a file from a folder, so that both can be moved together."""
    try:
        return os.path.relpath(file, folder)
    except ValueError:  # on another drive
        return str(Path(file).absolute())
