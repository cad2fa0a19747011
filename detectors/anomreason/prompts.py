"""The texts of the requests: files in the folder ``prompts`` beside this one, with placeholders such as ``$object``."""

from __future__ import annotations

import functools
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent / "prompts"


def prompt(name: str, **values: object) -> str:
    """The text of a file, with a value in the place of each placeholder.

    Values that come from models must be quoted (``refiner.detectors.vlm.questions.quoted``), so that they are data.
    """
    return _template(name).substitute(values)


@functools.cache
def _template(name: str) -> Template:
    return Template((_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip())
