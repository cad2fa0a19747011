"""The file in which training writes how a model answers, so that the detector asks and reads the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from refiner.detectors.chat.adapters import read_settings
from refiner.detectors.fakexplain.grammar import Dialect, find_dialect
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError, WeightsError
from refiner.files import atomic_write

NOTE = "fakexplain.json"


class Note(NamedTuple):
    """How a model was trained to answer."""

    dialect: Dialect
    boxes: BoxFormat


def write_note(folder: str | Path, note: Note) -> Path:
    """Write a note into a folder of weights or of an adapter.

    Raises:
        OutputError: it cannot be written.
    """
    boxes = {"scale": note.boxes.scale, "order": note.boxes.order}
    text = json.dumps({"dialect": note.dialect.name, "boxes": boxes})
    return atomic_write(Path(folder) / NOTE, f"{text}\n")


def read_note(folder: Path) -> Note | None:
    """Read the note of a folder; None if it has none.

    Raises:
        WeightsError: the note cannot be read, or names an unknown dialect or form of boxes.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    settings = read_settings(path)
    try:
        return Note(find_dialect(settings["dialect"]), BoxFormat(**settings["boxes"]))
    except (KeyError, TypeError, ConfigError) as error:
        raise WeightsError(
            f"The note {str(path)!r} does not say how the model answers ({error!r}): download the folder again."
        ) from error
