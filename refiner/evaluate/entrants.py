"""The generators that are ranked: ``NAME=FOLDER`` or ``NAME=MODEL,option=value,...``, as on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser, isdir
from pathlib import Path
from typing import Final

from refiner.errors import InputError

Option = bool | int | float | str | None

SYNTAX: Final = "NAME=FOLDER or NAME=MODEL,option=value,..., such as quick=micro,num_inference_steps=4"
_NAME: Final = re.compile(r"\w[\w .+@-]{0,63}")
_FILES: Final = (".json", ".csv", ".html")
"""Endings of the files that lie beside the generators' folders."""
_OPTION: Final = re.compile(r",\s*([A-Za-z_]\w*)=([^,]*)$")


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A generator to rank."""

    name: str
    place: str
    """A folder of images, or the folder or id of a pipeline."""
    options: Mapping[str, Option]
    """Arguments of the pipeline's call."""

    @property
    def paints(self) -> bool:
        """Whether it is a pipeline; else it is a folder of images."""
        return not isdir(self.place) or (Path(self.place) / "model_index.json").is_file()

    @property
    def source(self) -> str:
        """Place and options as they are written on the command line."""
        options = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.options.items()}
        return ",".join([self.place, *(f"{name}={value}" for name, value in options.items())])


def parse_entrants(texts: Sequence[str]) -> list[Entrant]:
    """Read ``NAME=FOLDER`` and ``NAME=MODEL,option=value,...``; the path of an existing folder may hold commas.

    Values are read as JSON if possible (``4``, ``7.5``, ``true``, ``null``), else as text.

    Raises:
        InputError: another form, a name that cannot name a folder, or a name that is given twice.
    """
    entrants: dict[str, Entrant] = {}
    for text in texts:
        entrant = _entrant(text)
        key = entrant.name.casefold()
        if key in entrants:
            raise InputError(
                f"Expected a different name for each generator, got {entrants[key].name!r} and {entrant.name!r}: "
                "change one of them."
            )
        entrants[key] = entrant
    return list(entrants.values())


def _entrant(text: str) -> Entrant:
    name, _, place = text.partition("=")
    plain = _NAME.fullmatch(name) and name == name.strip(" .") and not name.casefold().endswith(_FILES)
    if not plain or not place.strip() or "\0" in place:
        raise InputError(f"Expected {SYNTAX}, got {text!r}: use this form, with a name of letters and digits.")
    place = expanduser(place)
    options: dict[str, Option] = {}
    while not isdir(place) and (found := _OPTION.search(place)):
        if found[1] in options:
            raise InputError(f"Expected each option once, got {found[1]} twice in {text!r}: leave one out.")
        options[found[1]] = _value(found[2])
        place = place[: found.start()]
    if not isdir(place) and (not place.strip() or "," in place):
        raise InputError(f"Expected {SYNTAX}, got {text!r}: check the folder, and write options as option=value.")
    entrant = Entrant(name=name, place=place, options=dict(reversed(options.items())))
    if options and not entrant.paints:
        raise InputError(f"Expected no options for a folder of images, got {text!r}: leave them out.")
    return entrant


def _value(text: str) -> Option:
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value
