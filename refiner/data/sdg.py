"""SDG-30K: generated images with boxes of artifacts and misalignments (SDG, arXiv 2606.06113, data set P1n3/SDG-30K).

``FOLDER`` holds ``annotations/train.jsonl`` and ``annotations/test.jsonl``, or one of them, or these files themselves,
and the images. A record is::

    {"filepath": "images/flux2/1.png", "caption": "two cats", "generator": "flux2",
     "artifact_bboxes": [{"box_2d": [y0, x0, y1, x1], "description": "The paw has six toes.", "importance": 45}],
     "misalignment_bboxes": []}

Boxes are in thousandths of the sides, **y first** (the models of the same authors write x first). ``desc`` may stand
for ``description``, and a box may stand alone for its record. Importance runs from 1 to 100. Boxes are rounded to the
nearest pixels. An image whose record cannot be read is named, counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from refiner.data.fields import is_finite, list_of, path_inside, text_of
from refiner.data.folders import find_images
from refiner.data.json_stream import Place, Places, read_again, stream_records
from refiner.data.names import find_file, same
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.samples import UNNAMED, Sample, group_of
from refiner.errors import InputError
from refiner.images import load_image
from refiner.reading import reason_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Box, Claim, Region, Size

IMAGES: Final = "images"
"""The folder of the images; it may be missing in the paths of the records."""
_LISTS: Final[Mapping[str, Category]] = {
    # The data set has no finer categories of artifacts, and no figure of this truth uses the category.
    "artifact_bboxes": Category.TEXTURE,
    "misalignment_bboxes": Category.MISALIGNMENT,
}
_SPLITS: Final = ("test", "train")
"""The first one that exists is the default."""
_PLACES: Final = ("annotations", ".")
_FULL: Final = 1000
"""Each side of an image in the unit of the boxes."""
_SLACK: Final = 50
"""Boxes may lie this far outside the image, and are cut to it."""
_MOST: Final = 100
"""The largest importance."""


class SdgDefect(NamedTuple):
    """One defect."""

    category: Category
    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in thousandths of the sides, x first."""
    description: str
    """May be empty."""
    importance: float | None
    """From 1 to 100, the worst; None if unknown."""

    def claim(self) -> Claim:
        """The defect in words; the category only of a misalignment."""
        category = self.category if self.category is Category.MISALIGNMENT else None
        severity = None if self.importance is None else self.importance / _MOST
        return Claim(explanation=self.description, category=category, severity=severity)

    def pixels(self, size: Size) -> Box:
        """The box in an image of ``size``, rounded to whole pixels, at least one of them."""
        x0, x1 = _rounded(self.box[0], self.box[2], size.width)
        y0, y1 = _rounded(self.box[1], self.box[3], size.height)
        return x0, y0, x1, y1


@dataclass(frozen=True, kw_only=True)
class SdgImage:
    """One image with its truth."""

    name: str
    """Path of the image without ``images/`` in front, unique in the data set."""
    path: str
    """As the record has it, from the folder of the data set."""
    caption: str
    generator: str
    """"" if unknown."""
    defects: tuple[SdgDefect, ...]
    """Empty for a clean image."""
    place: Place
    """Of the record."""

    def truth(self, size: Size) -> Analysis:
        """The defects as regions; the importance, where it is known, is the severity."""
        regions = (
            Region(
                mask=None,
                box=defect.pixels(size),
                name=UNNAMED,
                explanation=defect.description,
                category=defect.category,
                severity=1.0 if defect.importance is None else defect.importance / _MOST,
            )
            for defect in self.defects
        )
        return Analysis(size=size, regions=tuple(regions), detector="sdg-30k")


class SdgData:
    """A split of SDG-30K as a data set; every image is generated.

    An image without a record in any split is counted as ``missing_record``. A record without an image is a sample with
    an error (``MissingImageError``).

    Args:
        folder: of the data set.
        split: ``test`` or ``train``; None means ``test`` if there is one, else ``train``.

    Raises:
        InputError: no such folder or split, or its file cannot be read.
    """

    def __init__(self, folder: str, *, split: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.root = Path(folder)
        files = _find_splits(self.root)
        split = split or next(iter(files), _SPLITS[0])
        if split not in files:
            raise InputError(
                f"Expected the split {split!r} of SDG-30K in {folder!r}, got {', '.join(files) or 'none'}: name the "
                "folder that holds annotations/test.jsonl, or another split."
            )
        self.split, self.places = split, Places([files[split]])
        names: dict[str, None] = {}
        for image in read_images(files[split], self.problems):
            names[image.name] = None
            self.places.append(image.place)
        self.names = tuple(names)
        self.problems += self._without_record(files)

    def _without_record(self, files: Mapping[str, Path]) -> Iterator[Problem]:
        root = self.root / IMAGES if (self.root / IMAGES).is_dir() else self.root
        known = set(map(same, self.names))
        if any(same(name) not in known for name in find_images(root, deep=True)):
            for other in files.values():
                with suppress(InputError):  # a split that cannot be read has no records
                    known.update(same(image.name) for image in read_images(other, []))
        for name in find_images(root, deep=True):
            if same(name) not in known:
                yield Problem("missing_record", str(root), name, "no record names it; left out")

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_again(self.places[index], _read)
        paths = (find_file(self.root, item.path), find_file(self.root / IMAGES, item.name))
        image = load_image(next(filter(isfile, paths), paths[0]))
        return Sample(
            name=item.name,
            group=item.generator or group_of(item.name),
            prompt=item.caption,
            image=image,
            fake=True,
            truth=item.truth(Size(image.height, image.width)),
            categorised=False,
            misalignments=True,
            weighed=all(defect.importance is not None for defect in item.defects),
            anomalies=tuple(defect.claim() for defect in item.defects),
            split=self.split,
        )


def read_images(file: Path, problems: list[Problem]) -> Iterator[SdgImage]:
    """Each image once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``bad_region`` (the record is left out as well), ``duplicate_image`` (the first
    record counts), and ``empty_text`` (a defect without a description; it is kept).

    Raises:
        InputError: the file is damaged as a whole.
    """
    try:
        records = ((where, item.value, item.place) for where, item in stream_records(file))
        for image in usable_records(records, _read, str(file), problems, set()):
            for number, defect in enumerate(image.defects):
                if not defect.description:
                    problems.append(
                        Problem("empty_text", str(file), f"{image.name}, defect {number}", "no description")
                    )
            yield image
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read the records in {str(file)!r} ({reason_of(error)}): download the file again."
        ) from error


def _find_splits(root: Path) -> dict[str, Path]:
    """Split -> file, in the order of ``_SPLITS``."""
    for place in _PLACES:
        files = {split: root / place / f"{split}.jsonl" for split in _SPLITS}
        found = {split: file for split, file in files.items() if file.is_file()}
        if found:
            return found
    return {}


def _read(value: Any, place: Place) -> SdgImage:
    if not isinstance(value, Mapping):
        raise UnusableError("bad_record", f"expected an object, got {value!r:.60}")
    path = path_inside(value.get("filepath"), "filepath")
    try:
        missing = [name for name in _LISTS if name not in value]
        if missing:
            raise UnusableError("bad_record", f"expected the list {missing[0]}, which is empty for a clean image")
        defects = tuple(
            _defect(each, category, f", {name}, {number}")
            for name, category in _LISTS.items()
            for number, each in enumerate(list_of(value, name))
        )
        return SdgImage(
            name=path.removeprefix(f"{IMAGES}/"),
            path=path,
            caption=text_of(value, "caption"),
            generator=text_of(value, "generator"),
            defects=defects,
            place=place,
        )
    except UnusableError as error:
        error.where = f", {path!r:.200}{error.where}"
        raise


def _defect(value: Any, category: Category, where: str) -> SdgDefect:
    fields = value if isinstance(value, Mapping) else {"box_2d": value}
    box = fields.get("box_2d")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        raise UnusableError("bad_region", f"expected box_2d as four finite numbers, got {box!r:.60}", where)
    y0, x0, y1, x1 = map(float, box)
    inside = all(-_SLACK <= side <= _FULL + _SLACK for side in (y0, x0, y1, x1))
    if not (inside and y0 < y1 and x0 < x1 and min(x1, y1) > 0 and max(x0, y0) < _FULL):
        raise UnusableError("bad_region", f"expected [y0, x0, y1, x1] in thousandths, got {box!r:.60}", where)
    importance = fields.get("importance")
    if importance is not None and not (is_finite(importance) and 1 <= importance <= _MOST):
        raise UnusableError("bad_region", f"expected importance from 1 to {_MOST}, got {importance!r:.60}", where)
    try:
        text = text_of(fields, "description") or text_of(fields, "desc")
    except UnusableError as error:
        raise UnusableError("bad_region", str(error), where) from error
    return SdgDefect(category, (x0, y0, x1, y1), text, None if importance is None else float(importance))


def _rounded(start: float, end: float, side: int) -> tuple[int, int]:
    """A stretch in thousandths in whole pixels of a side."""
    first = min(max(0, round(start * side / _FULL)), side - 1)
    return first, min(max(first + 1, round(end * side / _FULL)), side)
