"""The file in which training writes how a model answers, so that the detector asks and reads the same way."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refiner.detectors.anomreason.grammar import check_format
from refiner.detectors.chat.adapters import read_settings
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import WeightsError
from refiner.reading import reason_of

NOTE = "anomreason.json"
DEFAULT_FORMAT = "authenticity_reasoning"


class Note(NamedTuple):
    """How a model was trained to answer."""

    form: str = DEFAULT_FORMAT
    """One of ``refiner.detectors.anomreason.grammar.FORMATS``."""
    boxes: BoxFormat | None = None
    """How it writes boxes; None if it writes none, as the authors' weights."""
    max_side: int | None = None
    """Longest side of the images that it was shown, in pixels; None if it is not known."""


def read_note(folder: Path) -> Note | None:
    """Read the note of a folder; None if it has none.

    It is a JSON object with ``format``, ``boxes`` (the fields of ``BoxFormat``, or null) and, if it is known,
    ``max_side``.

    Raises:
        WeightsError: the note cannot be read, or has other values.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    settings = read_settings(path)
    try:
        side, boxes = settings.get("max_side"), settings["boxes"]
        if side is not None and (type(side) is not int or side < 1):
            raise ValueError(f"max_side {side!r}")
        return Note(check_format(settings["format"]), None if boxes is None else BoxFormat(**boxes), side)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The note {str(path)!r} does not say how the model answers ({reason_of(error)}): "
            "download the folder again."
        ) from error
