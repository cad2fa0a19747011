"""The signs of the micro world, by two referees that do not know each other: its own, and a reader of lettering.

The reader was trained on photographs, not on the micro world, and sees only the image. It reads single drawn letters
worse than photographed ones ("zoo" as "200"), so its counts matter as a comparison before and after.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from refiner.detectors.text.matching import match
from refiner.detectors.text.reader import RapidReader, Reader, is_installed
from refiner.micro.oracle import Verdict
from refiner.micro.things import PLACES
from refiner.micro.world import Scene

ENLARGED = 4
"""How many times larger the reader sees an image of the micro world."""


class SignsRead(NamedTuple):
    """The signs of one image, in the order of the caption: whether each is wrong."""

    by_referee: tuple[bool, ...]
    """A letter of it is not seen or cannot be read, or the whole sign is wrong."""
    by_reader: tuple[bool, ...]
    """Its word is not read as the caption says."""


@functools.cache
def installed_reader() -> Reader | None:
    """The reader of lettering; None if the extra ``text`` is not installed."""
    return RapidReader() if is_installed() else None


def read_signs(image: Image.Image, scene: Scene, verdict: Verdict, reader: Reader) -> SignsRead:
    """Judge the signs of an image.

    Args:
        image: of the micro world.
        scene: what it should show.
        verdict: that of the referee about the image.
        reader: reads the image, enlarged ``ENLARGED`` times; it is not asked if the scene has no sign.
    """
    signs = [index for index, thing in enumerate(scene.things) if thing.kind == "sign"]
    if not signs:
        return SignsRead((), ())
    wrong = {flaw.thing for flaw in verdict.flaws if flaw.part in ("thing", *PLACES)}
    large = image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.BICUBIC)
    found = match(reader.read(large), [[scene.things[index].attribute] for index in signs])
    right = {each.text for each in found.matches if each.share == 0}
    return SignsRead(tuple(index in wrong for index in signs), tuple(at not in right for at in range(len(signs))))


def sign_counts(image: Image.Image, scene: Scene, verdict: Verdict) -> dict[str, int]:
    """The numbers of signs, and of wrong ones by each referee; empty without a reader."""
    reader = installed_reader()
    if reader is None:
        return {}
    read = read_signs(image, scene, verdict, reader)
    return {"signs": len(read.by_referee), "oracle_signs": sum(read.by_referee), "text_signs": sum(read.by_reader)}


def total_signs(rows: Sequence[dict[str, Any]]) -> dict[str, int] | None:
    """Sum the counts of several images; None if one has none, as records that were made without a reader."""
    names = ("signs", "oracle_signs", "text_signs")
    if not all(name in row for row in rows for name in names):
        return None
    return {name: sum(row[name] for row in rows) for name in names}
