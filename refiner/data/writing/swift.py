"""ms-swift's training records in the grammar of FakeXplain, as ``refiner.data.fakexplained.swift`` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TextIO

from refiner.data.fakexplained.images import IMAGES
from refiner.data.fakexplained.swift import PLACEHOLDERS, VERDICTS
from refiner.data.writing.entries import Entry
from refiner.files import Json, dumps

INSTRUCTION: Final = (
    "Is this image real or generated? Describe each region that looks generated, with its bounding box, and the flaws "
    "of the image as a whole. Then give the verdict."
)
"""The text of the user. The authors' own instruction is not known."""
_MARKUP: Final = re.compile(r"<(/?[\w|-]+)>")


def write_swift(entries: Iterable[Entry], stream: TextIO, *, instruction: str = INSTRUCTION) -> None:
    """Write a record a line: boxes in pixels, descriptions, tags and the verdict.

    Name, reasoning, category and severity of a flaw have no place in this format. In texts, markup such as ``<bbox>``
    is written in round brackets, and in tags a comma becomes a semicolon, because both have a meaning there. Paths of
    images start at the folder of the file.

    Args:
        entries: of the images.
        stream: of the file.
        instruction: the text of the user, after the image.
    """
    for entry in entries:
        stream.write(dumps(_record(entry, instruction), indent=None) + "\n")


def _record(entry: Entry, instruction: str) -> Json:
    messages = [
        {"role": "user", "content": f"<image>{instruction}"},
        {"role": "assistant", "content": _answer(entry)},
    ]
    record: Json = {"messages": messages, "images": [f"{IMAGES}/{entry.image}"]}
    if not entry.flaws:
        return record
    texts, boxes = [_plain(flaw.description) for flaw in entry.flaws], [list(flaw.box) for flaw in entry.flaws]
    return record | {"objects": {"ref": texts, "bbox": boxes}}


def _answer(entry: Entry) -> str:
    lines = ["".join(PLACEHOLDERS)] * len(entry.flaws)
    if entry.tags:
        lines.append(f"<tag>{', '.join(_plain(tag).replace(',', ';') for tag in entry.tags)}</tag>")
    verdict = next(word for word, fake in VERDICTS.items() if fake == entry.fake)
    thoughts = "".join(f"{line}\n" for line in lines)
    return f"<think>\n{thoughts}</think><verdict>{verdict}</verdict>"


def _plain(text: str) -> str:
    """A text without markup."""
    return _MARKUP.sub(r"(\1)", text)
