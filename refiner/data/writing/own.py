"""Our own records of FakeXplained, as ``refiner.data.fakexplained.own`` reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from refiner.data.fakexplained.own import LABELS
from refiner.data.samples import group_of
from refiner.data.writing.entries import Entry, Flaw
from refiner.files import Json, dumps


def write_own(entries: Iterable[Entry], stream: TextIO) -> None:
    """Write a record a line; everything that is known about a flaw is kept, except its mask."""
    for entry in entries:
        stream.write(dumps(_record(entry), indent=None) + "\n")


def _record(entry: Entry) -> Json:
    label = next(label for label, fake in LABELS.items() if fake == entry.fake)
    record: Json = {"image": entry.image, "label": label}
    if entry.group and entry.group != group_of(entry.image):
        record["generator"] = entry.group
    if entry.tags:
        record["tags"] = list(entry.tags)
    record |= {"width": entry.size.width, "height": entry.size.height}
    return record | {"regions": [_region(flaw) for flaw in entry.flaws]}


def _region(flaw: Flaw) -> Json:
    region: Json = {"box": list(flaw.box), "description": flaw.description}
    known = {"name": flaw.name, "reasoning": flaw.reasoning, "category": flaw.category, "severity": flaw.severity}
    return region | {key: value for key, value in known.items() if value not in (None, "")}
