"""LOKI: generated images with boxes of their artifacts, as LEGION's evaluation reads them (LOKI, ICLR 2025).

``FOLDER`` holds one JSON file (UTF-16 or UTF-8), itself or in ``annotations/``, and the images, in ``images/`` if there
is such a folder. The file is a list of records::

    {"image_path": "animal/1.jpg", "problems": {"global": ["The light is flat."],
     "regional": [{"region": [x, y, width, height], "problem": "The paw has six toes."}]}}

The key of a region's text is not documented: the first text in one of ``TEXT_KEYS`` counts. A box is filled from its
first to its last pixel, as LEGION fills it. Problems of the whole image are the tags of the truth. An image whose
record cannot be read is named, counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from refiner.data.fields import image_name, is_finite, list_of, text_of
from refiner.data.folders import find_images
from refiner.data.json_stream import Place, Places, read_again, stream_list
from refiner.data.names import find_file, same
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.samples import UNNAMED, Sample, group_of
from refiner.errors import InputError
from refiner.images import load_image
from refiner.reading import reason_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Box, Claim, Region, Size

TEXT_KEYS: Final = ("problem", "explanation", "description", "reason", "text", "content", "caption")
"""Fields of a region that may hold its text."""
_FARTHEST: Final = 1e6
"""Pixels; a side farther out is an error."""


class LokiRegion(NamedTuple):
    """One artifact."""

    corner: tuple[float, float]
    """x and y in pixels."""
    extent: tuple[float, float]
    """Width and height in pixels, not negative."""
    text: str
    """May be empty."""

    def box(self, size: Size) -> Box | None:
        """The pixels that LEGION fills, half-open; None if there are none in the image."""
        first = [max(0, int(place)) for place in self.corner]
        ends = [int(place + long) for place, long in zip(self.corner, self.extent, strict=True)]
        (x0, y0), x1, y1 = first, min(ends[0], size.width - 1) + 1, min(ends[1], size.height - 1) + 1
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


@dataclass(frozen=True, kw_only=True)
class LokiImage:
    """One image with its truth."""

    name: str
    """Path of the image, unique in the data set."""
    regions: tuple[LokiRegion, ...]
    tags: tuple[str, ...]
    """Problems of the image as a whole."""
    place: Place
    """Of the record; ``read_record`` reads it again."""


def find_records(folder: str | Path) -> Path:
    """The file of records of a folder.

    Raises:
        InputError: no such folder, no JSON file in it, or several.
    """
    root = Path(folder)
    files = sorted(root.glob("*.json")) or sorted((root / "annotations").glob("*.json"))
    if len(files) != 1:
        found = " and ".join(file.name for file in files) or "none"
        raise InputError(f"Expected one JSON file of LOKI in {str(folder)!r}, got {found}: name the data set's folder.")
    return files[0]


def read_images(file: Path, problems: list[Problem]) -> Iterator[LokiImage]:
    """Each image once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``bad_region`` (the record is left out as well), ``duplicate_image`` (the first
    record counts) and ``empty_text`` (a region without a text; it is kept).

    Raises:
        InputError: the file is damaged as a whole.
    """
    try:
        records = ((f"record {number}", item.value, item.place) for number, item in enumerate(stream_list(file)))
        for image in usable_records(records, _read, str(file), problems, set()):
            for number, region in enumerate(image.regions):
                if not region.text:
                    where = f"{image.name}, region {number}"
                    problems.append(Problem("empty_text", str(file), where, "no text, so it scores 0 against each one"))
            yield image
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read the records in {str(file)!r} ({reason_of(error)}): download the file again."
        ) from error


def read_record(place: Place) -> LokiImage:
    """Read the record of an image again.

    Raises:
        InputError: the file has changed since the data set was opened.
    """
    return read_again(place, _read)


def _read(value: Any, place: Place) -> LokiImage:
    if not isinstance(value, Mapping):
        raise UnusableError("bad_record", f"expected an object, got {value!r:.60}")
    name = image_name(value.get("image_path"))
    try:
        found = value.get("problems") or {}
        if not isinstance(found, Mapping):
            raise UnusableError("bad_record", f"expected problems as an object, got {found!r:.60}")
        regions = tuple(_region(region, number) for number, region in enumerate(list_of(found, "regional")))
        return LokiImage(name=name, regions=regions, tags=_tags(found), place=place)
    except UnusableError as error:
        error.where = f", {name!r:.200}{error.where}"
        raise


def _tags(problems: Mapping[str, Any]) -> tuple[str, ...]:
    """The problems of the whole image: one text, or a list of texts."""
    found = problems.get("global")
    texts = [found] if isinstance(found, str) else list_of(problems, "global")
    tags = (text_of({"global": text}, "global") for text in texts)
    return tuple(tag for tag in tags if tag)


def _region(value: Any, number: int) -> LokiRegion:
    where = f", region {number}"
    box = value.get("region") if isinstance(value, Mapping) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        raise UnusableError("bad_region", f"expected a box of four finite numbers, got {box!r:.60}", where)
    x, y, width, height = map(float, box)
    if width < 0 or height < 0 or max(map(abs, (x, y, width, height))) > _FARTHEST:
        detail = f"expected (x, y, width, height) within {_FARTHEST:g} pixels, got {box!r:.60}"
        raise UnusableError("bad_region", detail, where)
    try:
        texts = [text_of(value, key) for key in TEXT_KEYS if isinstance(value.get(key), str)]
    except UnusableError as error:
        raise UnusableError("bad_region", str(error), where) from error
    return LokiRegion((x, y), (width, height), next(filter(None, texts), ""))


class LokiData:
    """LOKI as a data set; every image is generated.

    A region's text is its explanation. A box without a pixel in the image makes an unplaced region. An image without a
    record is counted as ``missing_record``. A record without an image is a sample with an error
    (``MissingImageError``).
    """

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        file, root = find_records(folder), Path(folder) / "images"
        self.root = root if root.is_dir() else Path(folder)
        self.places = Places([file])
        names: dict[str, None] = {}
        for image in read_images(file, self.problems):
            names[image.name] = None
            self.places.append(image.place)
        self.names = tuple(names)
        known = set(map(same, names))
        for found in find_images(self.root, deep=True):
            if same(found) not in known:
                self.problems.append(Problem("missing_record", str(self.root), found, "no record names it; left out"))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(find_file(self.root, item.name))
        size = Size(image.height, image.width)
        # The data set has no categories, and no figure of this truth uses the category.
        regions = (
            Region(mask=None, box=flaw.box(size), name=UNNAMED, explanation=flaw.text, category=Category.TEXTURE)
            for flaw in item.regions
        )
        return Sample(
            name=item.name,
            group=group_of(item.name),
            image=image,
            fake=True,
            truth=Analysis(size=size, regions=tuple(regions), tags=item.tags, detector="loki"),
            categorised=False,
            anomalies=tuple(Claim(explanation=region.text) for region in item.regions),
        )
