"""FakeXplained: generated images with boxes and descriptions of their flaws, and real images (FakeXplain, ICLR 2026).

The data set is not public, and its field names are not known. Each generated image has regions (a box and a description
of the anomaly) and tags of the whole image; real images have none. This reader defines its own layout for that:
``FOLDER/annotations.jsonl`` (a record a line) or ``FOLDER/annotations.json`` (a list of records), and the images in
``FOLDER/images``, or in ``FOLDER`` if there is no such folder. A record is

    {"image": "sdxl/0001.png", "label": "fake", "generator": "sdxl", "tags": ["recognizability"],
     "regions": [{"box": [12, 40, 96.5, 128], "description": "The flamingo has three legs."}]}

``image`` is a path with forward slashes. ``label`` is ``fake`` or ``real``. A box is (x0, y0, x1, y1) in pixels of the
image, half-open. ``regions``, ``tags`` and ``generator`` are optional. ``width`` and ``height`` are optional and are
compared with the image. Other fields are ignored. An image whose record cannot be read is named, counted and left out,
because there is no truth to score against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from refiner.data.fields import is_finite, is_inside, list_of
from refiner.data.folders import find_images
from refiner.data.json_stream import Place, Places, read_again, stream_records
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.samples import UNNAMED, Sample, check_size, group_of
from refiner.data.texts import is_unicode
from refiner.errors import InputError
from refiner.images import load_image
from refiner.masks import clip_box
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Region, Size

FILES: Final = ("annotations.jsonl", "annotations.json")
_LABELS: Final = {"fake": True, "real": False}


class FakexplainedRegion(NamedTuple):
    """One anomaly."""

    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in pixels, half-open, at least one pixel wide and high."""
    description: str
    """May be empty."""


@dataclass(frozen=True, kw_only=True)
class FakexplainedImage:
    """One image with its truth."""

    name: str
    """Path of the image, unique in the data set."""
    fake: bool
    """Whether it is generated."""
    generator: str
    """"" if unknown."""
    regions: tuple[FakexplainedRegion, ...]
    """Empty for a real image."""
    tags: tuple[str, ...]
    """Flaws of the image as a whole."""
    size: Size | None
    """None if the record does not give it."""
    place: Place
    """Of the record; ``read_record`` reads it again."""


def find_records(folder: str | Path) -> Path:
    """The file of records of a folder.

    Raises:
        InputError: no such folder, no file of records in it, or two of them.
    """
    files = [Path(folder) / name for name in FILES if (Path(folder) / name).is_file()]
    if len(files) != 1:
        found = " and ".join(file.name for file in files) or "none"
        raise InputError(
            f"Expected one of {' and '.join(FILES)} in {str(folder)!r}, got {found}: name the data set's folder."
        )
    return files[0]


def read_images(file: Path, problems: list[Problem]) -> Iterator[FakexplainedImage]:
    """Each image once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``bad_region`` (the record is left out as well), ``duplicate_image`` (the first
    record counts) and ``empty_text`` (a region without a description; it is kept).

    Raises:
        InputError: the file is damaged as a whole.
    """
    records = ((where, item.value, item.place) for where, item in stream_records(file))
    try:
        for image in usable_records(records, _read, str(file), problems, set()):
            for number, region in enumerate(image.regions):
                if not region.description:
                    text = "no description, so it scores 0 against each text"
                    problems.append(Problem("empty_text", str(file), f"{image.name}, region {number}", text))
            yield image
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read the records in {str(file)!r} ({error!r}): export the file again.") from error


def read_record(place: Place) -> FakexplainedImage:
    """Read the record of an image again.

    Raises:
        InputError: the file has changed since the data set was opened.
    """
    return read_again(place, _read)


def _read(value: Any, place: Place) -> FakexplainedImage:
    if not isinstance(value, Mapping):
        raise UnusableError("bad_record", f"expected an object, got {value!r:.60}")
    try:
        return _parse(value, place)
    except UnusableError as error:
        name = value.get("image")
        error.where = f", {name!r:.200}" if isinstance(name, str) else ""
        raise


def _parse(value: Mapping[str, Any], place: Place) -> FakexplainedImage:
    name, label, generator = value.get("image"), value.get("label"), value.get("generator")
    if not isinstance(name, str) or not is_inside(name):
        raise UnusableError("bad_record", f"expected as image a path inside the folder, got {name!r:.60}")
    if not isinstance(label, str) or label not in _LABELS:
        raise UnusableError("bad_record", f"expected the label {' or '.join(_LABELS)}, got {label!r:.60}")
    if generator is not None and not (isinstance(generator, str) and is_unicode(generator)):
        raise UnusableError("bad_record", f"expected the generator's name, got {generator!r:.60}")
    regions, tags = list_of(value, "regions"), list_of(value, "tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise UnusableError("bad_record", f"expected tags as texts, got {tags!r:.60}")
    if regions and not _LABELS[label]:
        raise UnusableError("bad_record", f"expected no regions for a real image, got {len(regions)}")
    return FakexplainedImage(
        name=PurePosixPath(name).as_posix(),
        fake=_LABELS[label],
        generator=generator or "",
        regions=tuple(_region(region, number) for number, region in enumerate(regions)),
        tags=tuple(tags),
        size=_size(value),
        place=place,
    )


def _region(value: Any, number: int) -> FakexplainedRegion:
    if not isinstance(value, Mapping):
        raise UnusableError("bad_region", f"region {number}: expected an object, got {value!r:.60}")
    box, text = value.get("box"), value.get("description")
    if not isinstance(box, list) or len(box) != 4 or not all(is_finite(side) for side in box):
        raise UnusableError("bad_region", f"region {number}: expected a box of four finite numbers, got {box!r:.60}")
    x0, y0, x1, y1 = map(float, box)
    if x1 - x0 < 1 or y1 - y0 < 1:
        detail = f"region {number}: expected a box (x0, y0, x1, y1) of at least one pixel, got {box!r:.60}"
        raise UnusableError("bad_region", detail)
    if text is not None and not (isinstance(text, str) and is_unicode(text)):
        raise UnusableError("bad_region", f"region {number}: expected a description in words, got {text!r:.60}")
    return FakexplainedRegion((x0, y0, x1, y1), (text or "").strip())


def _size(value: Mapping[str, Any]) -> Size | None:
    height, width = (value.get(name) for name in ("height", "width"))
    if height is None and width is None:
        return None
    if isinstance(height, int) and isinstance(width, int) and not {bool} & {type(height), type(width)}:
        return Size(height, width)
    raise UnusableError(
        "bad_record", f"expected height and width in whole pixels, got {height!r:.30} and {width!r:.30}"
    )


class FakexplainedData:
    """FakeXplained as a data set: generated and real images with boxes and descriptions.

    A description becomes the explanation of a claim; there is no category and no reasoning. Boxes are rounded outwards
    to whole pixels and cut to the image. An image without a record is counted as ``missing_record``. A record without
    an image is a sample with an error (``MissingImageError``).
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
        for found in find_images(self.root, deep=self.root == root):
            if found not in names:
                self.problems.append(Problem("missing_record", str(self.root), found, "no record names it; left out"))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(self.root / item.name)
        size = Size(image.height, image.width)
        check_size(size, item.size or size, item.name, self.root)
        return Sample(
            name=item.name,
            group=item.generator or group_of(item.name),
            image=image,
            fake=item.fake,
            truth=_truth(item, size),
            categorised=False,
            anomalies=tuple(Claim(explanation=region.description) for region in item.regions),
        )


def _truth(item: FakexplainedImage, size: Size) -> Analysis:
    regions = []
    for region in item.regions:
        box = clip_box(region.box, size)
        if box is None:
            raise InputError(
                f"Expected boxes inside {size.width}x{size.height} pixels of {item.name!r}, got {region.box}: "
                "give boxes in pixels of the image."
            )
        # The data set has no categories, and no figure of this truth uses the category.
        flaw = Region(mask=None, box=box, name=UNNAMED, explanation=region.description, category=Category.TEXTURE)
        regions.append(flaw)
    return Analysis(size=size, regions=tuple(regions), tags=item.tags, detector="fakexplained")
