"""The contact sheet of a run: HTML pages of small images with their flaws marked, for any number of images.

Each page is one self-contained file. One page is in memory at a time. All text from people, files and models is
escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from PIL import Image

from refiner.errors import InputError
from refiner.evaluate.records import Records
from refiner.files import Json, atomic_write, check_writable
from refiner.reports.detections import Found, read_found
from refiner.reports.overlays import flaw_words, overlay
from refiner.reports.page import render
from refiner.types import Analysis, Region

Order = Literal["severity", "name"]
Choice = Literal["all", "flawed", "unanswered"]
FOLDER: Final = "contact"
PAGE: Final = 100
"""Images on a page."""
_SIDE: Final = 320
_QUALITY: Final = 80
_LISTED: Final = 8
"""Flaws that are listed below an image; the others are counted."""


class Card(NamedTuple):
    """An image of a page."""

    found: Found
    picture: str
    """A data URI; "" if the image cannot be read any more."""
    said: str
    """What was found, or why nothing is known."""

    @property
    def listed(self) -> Sequence[Region]:
        """The flaws that are listed."""
        return () if self.found.analysis is None else self.found.analysis.regions[:_LISTED]

    @property
    def more(self) -> int:
        """How many others there are."""
        return 0 if self.found.analysis is None else len(self.found.analysis.regions) - len(self.listed)


def chosen_images(records: Records, order: Order, choice: Choice) -> list[int]:
    """Numbers of the images to show, in order.

    Args:
        records: of the run.
        order: ``severity``: the largest burden (severity times confidence, summed over the flaws) first, and images
            without an answer last; ``name``: as in the run.
        choice: images with flaws, images without an answer, or all.

    Raises:
        InputError: a record cannot be read.
    """
    keys = []
    for found in map(read_found, records):
        flawed = found.analysis is not None and bool(found.analysis.regions)
        if choice == "all" or (flawed if choice == "flawed" else found.analysis is None):
            burden = -1.0 if found.analysis is None else found.analysis.burden
            keys.append((-burden if order == "severity" else 0.0, found.record["index"]))
    return [index for _, index in sorted(keys)]


def write_gallery(
    records: Records,
    indices: Iterable[int],
    read: Callable[[Json], Image.Image],
    folder: Path,
    *,
    title: str,
    lead: str,
    total: int,
) -> list[Path]:
    """Write ``contact/index.html`` and ``contact/page-2.html`` and so on; further pages of an earlier sheet go.

    Args:
        records: of the run.
        indices: of the images to show, in order; read once.
        read: reads the image of a record; raises InputError if it cannot.
        folder: of the report.
        title, lead: the heading, and the sentence below it.
        total: number of ``indices``.

    Returns:
        The pages, at least one.

    Raises:
        InputError: a record cannot be read.
        OutputError: the folder cannot be written.
    """
    cards = (_card(read_found(records[index]), read) for index in indices)
    return write_pages("gallery.html", cards, folder, total=total, title=title, lead=lead)


def write_pages(template: str, cards: Iterable[Any], folder: Path, *, total: int, **words: str) -> list[Path]:
    """Write the cards of a sheet to ``contact/index.html`` and further pages, as ``write_gallery``.

    Args:
        template: of a page.
        cards: read once, page by page.
        folder: of the report.
        total: number of cards.
        words: for the template.
    """
    root = check_writable(folder / FOLDER)
    pages = max(1, -(-total // PAGE))
    left, written = iter(cards), list[Path]()
    for number in range(1, pages + 1):
        page = render(
            template,
            cards=list(islice(left, PAGE)),
            number=number,
            pages=pages,
            links=list(_links(number, pages)),
            first=(number - 1) * PAGE + 1,
            last=min(number * PAGE, total),
            total=total,
            **words,
        )
        written.append(atomic_write(root / _file(number), page))
    for stale in set(root.glob("page-*.html")) - set(written):
        stale.unlink(missing_ok=True)
    return written


def _file(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"


def _links(number: int, pages: int) -> Iterator[tuple[int, str]]:
    """Number and file of the pages that a page links to, itself included; a gap in the numbers means others between."""
    shown = {1, number - 1, number, number + 1, pages}
    return ((each, _file(each)) for each in sorted(shown) if 1 <= each <= pages)


def _card(found: Found, read: Callable[[Json], Image.Image]) -> Card:
    try:
        picture = thumbnail(read(found.record), found.analysis)
    except InputError:
        picture = ""
    if found.analysis is None:
        return Card(found, picture, f"{found.status}: {found.record['error']['detail']}")
    said = [flaw_words(found.analysis)]
    if found.analysis.fake_probability is not None:
        said.append(f"generated with probability {found.analysis.fake_probability:.2f}")
    said += [gap.replace("_", " ") for gap in found.analysis.gaps]
    return Card(found, picture, "; ".join(said))


def thumbnail(image: Image.Image, analysis: Analysis | None, side: int = _SIDE) -> str:
    """A small image as a data URI, with the flaws marked if they are those of an image of its size."""
    fits = analysis is not None and (image.height, image.width) == tuple(analysis.size)
    content = io.BytesIO()
    overlay(image, analysis if fits else None, side).save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
