"""Statements about what is written, answered by a reader of lettering instead of a chat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from refiner.checklist import Statement
from refiner.detectors.checklist.questions import Told
from refiner.detectors.text.detector import compare
from refiner.detectors.text.reader import Reader
from refiner.errors import InputError
from refiner.lettering import Found, wanted_words
from refiner.masks import box_of
from refiner.types import Size


def read_statements(reader: Reader, image: Image.Image, statements: Sequence[Statement]) -> Mapping[int, Told]:
    """Answer the statements of the kind text that name their words, by their numbers; the others are left out.

    A statement holds if all its words are read. One in a script that cannot be read is left out, too.

    Raises:
        ModelError: the reader fails.
    """
    wanted = {at: _words(each) for at, each in enumerate(statements) if each.kind == "text"}
    known = {at: words for at, words in wanted.items() if words}
    lines = reader.read(image) if known else []
    size = Size(image.height, image.width)
    told = {}
    for at, words in known.items():
        flaws, found = compare(lines, words, size)
        wrong = [each for each in found if each.kind != "read"]
        places = [flaw.pixels(size) for flaw in flaws if flaw.placed]
        box = box_of(sum(places[1:], places[0])) if wrong and places else None
        told[at] = Told("no" if wrong else "yes", _evidence(found), box)
    return told


def _words(statement: Statement) -> list[list[str]]:
    try:
        return wanted_words(statement.text)
    except InputError:
        return []


def _evidence(found: Sequence[Found]) -> str:
    return f"read: {' '.join(each.read or '-' for each in found)}"
