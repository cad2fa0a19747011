"""The file in which training writes how a model answers, so that the detector asks and reads the same way."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refiner.detectors.chat.adapters import read_settings
from refiner.detectors.fakexplain.grammar import Dialect, find_dialect
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import WeightsError
from refiner.reading import reason_of

NOTE = "fakexplain.json"


class Note(NamedTuple):
    """How a model was trained to answer."""

    dialect: Dialect
    boxes: BoxFormat
    max_side: int | None = None
    """Longest side of the images that it was shown, in pixels; None if it is not known."""


def read_note(folder: Path) -> Note | None:
    """Read the note of a folder; None if it has none.

    It is a JSON object with ``dialect``, ``boxes`` (the fields of ``BoxFormat``) and, if it is known, ``max_side``.

    Raises:
        WeightsError: the note cannot be read, or has other values.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    settings = read_settings(path)
    try:
        side = settings.get("max_side")
        if side is not None and (type(side) is not int or side < 1):
            raise ValueError(f"max_side {side!r}")
        return Note(find_dialect(settings["dialect"]), BoxFormat(**settings["boxes"]), side)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The note {str(path)!r} does not say how the model answers ({reason_of(error)}): "
            "download the folder again."
        ) from error
