"""FakeXplained: generated pictures with boxes and what is wrong in each, beside real ones (FakeXplain, ICLR 2026).

The data set is not public, and the names of its fields are not known. What it holds is: for each generated picture
regions, each a box and a description of the anomaly, and tags of the whole picture; real pictures have none. This
reader has a layout of its own for that: ``FOLDER/annotations.jsonl`` (a record a line) or ``FOLDER/annotations.json``
(a list of records), and the pictures in ``FOLDER/images``, or in ``FOLDER`` where there is no such folder. A record is

    {"image": "sdxl/0001.png", "label": "fake", "generator": "sdxl", "tags": ["recognizability"],
     "regions": [{"box": [12, 40, 96.5, 128], "description": "The flamingo has three legs."}]}

``image`` is a path with forward slashes, ``label`` is ``fake`` or ``real``, a box is (x0, y0, x1, y1) in pixels of the
picture, half-open. ``regions``, ``tags`` and ``generator`` may be missing; ``width`` and ``height`` may be there, and
are then compared with the picture. Other fields are passed over. A picture whose record cannot be read is named,
counted and left out: without its truth there is nothing to score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from refiner.data.folders import find_pictures
from refiner.data.json_stream import Place, Places, stream_lines, stream_list
from refiner.data.problems import Problem
from refiner.data.samples import Sample, group_of
from refiner.errors import InputError
from refiner.images import load_image
from refiner.masks import clip_box
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Region, Size

FILES: Final = ("annotations.jsonl", "annotations.json")
_LABELS: Final = {"fake": True, "real": False}


@dataclass(frozen=True, kw_only=True)
class FakexplainedRegion:
    """One anomaly."""

    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in pixels, half-open, at least one pixel wide and high."""
    description: str
    """What is wrong; may be empty."""


@dataclass(frozen=True, kw_only=True)
class FakexplainedImage:
    """One picture with its truth."""

    name: str
    """Path of the picture, unique in the data set."""
    fake: bool
    """Whether it is generated."""
    generator: str
    """"" where that is not known."""
    regions: tuple[FakexplainedRegion, ...]
    """None of a real picture."""
    tags: tuple[str, ...]
    """What is wrong with the picture as a whole."""
    size: Size | None
    """None where the record does not tell."""
    place: Place
    """Where its record lies; ``read_record`` reads it again."""


@dataclass(frozen=True, kw_only=True)
class FakexplainedFolder:
    """The data set on disk; ``images`` reads it record by record."""

    root: Path
    """Where the pictures lie."""
    file: Path
    """The records."""

    @classmethod
    def open(cls, folder: str | Path) -> FakexplainedFolder:
        """Find records and pictures.

        Raises:
            InputError: no such folder, no file of records in it, or two of them.
        """
        root = Path(folder)
        files = [root / name for name in FILES if (root / name).is_file()]
        if len(files) != 1:
            found = " and ".join(file.name for file in files) or "none"
            raise InputError(
                f"Expected one of {' and '.join(FILES)} in {str(root)!r}, got {found}: name the data set's folder."
            )
        return cls(root=root / "images" if (root / "images").is_dir() else root, file=files[0])

    def images(self, problems: list[Problem]) -> Iterator[FakexplainedImage]:
        """Each picture once, in the order of the records; what cannot be used is added to ``problems``.

        Kinds of problems: ``bad_record``, ``bad_region`` (the record is left out as well), ``duplicate_image`` (of
        which the first counts) and ``empty_text`` (a region without a description; it is kept).

        Raises:
            InputError: the file is damaged as a whole.
        """
        seen: set[str] = set()
        for where, value, place in self._records():
            try:
                image = _read(value, place)
            except _UnusableError as error:
                problems.append(Problem(error.kind, str(self.file), f"{where}{_name_of(value)}", str(error)))
                continue
            if image.name in seen:
                detail = "its name was there before; the first one counts"
                problems.append(Problem("duplicate_image", str(self.file), image.name, detail))
                continue
            seen.add(image.name)
            for number, region in enumerate(image.regions):
                if not region.description:
                    text = "no description, so that it is like no other text"
                    problems.append(Problem("empty_text", str(self.file), f"{image.name}, region {number}", text))
            yield image

    def _records(self) -> Iterator[tuple[str, Any, Place]]:
        try:
            if self.file.suffix == ".jsonl":
                for number, item in stream_lines(self.file):
                    yield f"line {number}", item.value, Place(self.file, item.start, item.length)
                return
            for number, item in enumerate(stream_list(self.file)):
                yield f"record {number}", item.value, Place(self.file, item.start, item.length)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"Expected records of FakeXplained in {str(self.file)!r}, got a file that fails with {error!r}: "
                "export it again."
            ) from error


def read_record(place: Place) -> FakexplainedImage:
    """A picture's record once more.

    Raises:
        InputError: the file has changed since the data set was opened.
    """
    try:
        return _read(place.read(), place)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Expected a record at byte {place.start} of {str(place.file)!r}, got one that fails with {error!r}: "
            "leave the file as it is while it is evaluated."
        ) from error


class _UnusableError(ValueError):
    """Why a record cannot be used."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def _name_of(value: Any) -> str:
    name = value.get("image") if isinstance(value, Mapping) else None
    return f", {name!r:.200}" if isinstance(name, str) else ""


def _read(value: Any, place: Place) -> FakexplainedImage:
    if not isinstance(value, Mapping):
        raise _UnusableError("bad_record", f"expected an object, got {value!r:.60}")
    name, label, generator = value.get("image"), value.get("label"), value.get("generator")
    if not isinstance(name, str) or not _is_inside(name):
        raise _UnusableError("bad_record", f"expected as image a path inside the folder, got {name!r:.60}")
    if not isinstance(label, str) or label not in _LABELS:
        raise _UnusableError("bad_record", f"expected the label {' or '.join(_LABELS)}, got {label!r:.60}")
    if generator is not None and not (isinstance(generator, str) and _is_unicode(generator)):
        raise _UnusableError("bad_record", f"expected the generator's name, got {generator!r:.60}")
    regions, tags = _list(value, "regions"), _list(value, "tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise _UnusableError("bad_record", f"expected tags as texts, got {tags!r:.60}")
    if regions and not _LABELS[label]:
        raise _UnusableError("bad_record", f"expected no regions of a real picture, got {len(regions)}")
    return FakexplainedImage(
        name=PurePosixPath(name).as_posix(),
        fake=_LABELS[label],
        generator=generator or "",
        regions=tuple(_region(region, number) for number, region in enumerate(regions)),
        tags=tuple(tags),
        size=_size(value),
        place=place,
    )


def _is_inside(name: str) -> bool:
    """Whether a path is a file's name below the folder, with forward slashes."""
    path = PurePosixPath(name)
    harmless = not set(name) & set("\\\0") and _is_unicode(name) and not name.endswith("/")
    return harmless and path.name != "" and not path.is_absolute() and ".." not in path.parts


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise _UnusableError("bad_record", f"expected a list of {field}, got {found!r:.60}")
    return found or []


def _region(value: Any, number: int) -> FakexplainedRegion:
    if not isinstance(value, Mapping):
        raise _UnusableError("bad_region", f"region {number}: expected an object, got {value!r:.60}")
    box, text = value.get("box"), value.get("description")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(side) for side in box):
        raise _UnusableError("bad_region", f"region {number}: expected a box of four finite numbers, got {box!r:.60}")
    x0, y0, x1, y1 = map(float, box)
    if x1 - x0 < 1 or y1 - y0 < 1:
        detail = f"region {number}: expected a box (x0, y0, x1, y1) of at least one pixel, got {box!r:.60}"
        raise _UnusableError("bad_region", detail)
    if text is not None and not (isinstance(text, str) and _is_unicode(text)):
        raise _UnusableError("bad_region", f"region {number}: expected a description in words, got {text!r:.60}")
    return FakexplainedRegion(box=(x0, y0, x1, y1), description=(text or "").strip())


def _is_finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _size(value: Mapping[str, Any]) -> Size | None:
    sides = [value.get(name) for name in ("height", "width")]
    if sides == [None, None]:
        return None
    height, width = sides
    if isinstance(height, int) and isinstance(width, int) and not {bool} & {type(height), type(width)}:
        return Size(height, width)
    raise _UnusableError(
        "bad_record", f"expected height and width in whole pixels, got {height!r:.30} and {width!r:.30}"
    )


class FakexplainedData:
    """FakeXplained's pictures, generated and real, with boxes and what is wrong in each.

    A description is the phenomenon of an anomaly; of which kind it is and why it cannot be is not told. Boxes are
    rounded outwards to whole pixels and cut to the picture. A picture that no record names is named and counted as
    ``missing_record``; a record whose picture is nowhere is a sample with an error (``MissingImageError``).
    """

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        self.source = FakexplainedFolder.open(folder)
        self.places = Places([self.source.file])
        names: list[str] = []
        for image in self.source.images(self.problems):
            names.append(image.name)
            self.places.append(image.place)
        self.names = tuple(names)
        known, root = frozenset(names), self.source.root
        for file in find_pictures(root, deep=root != Path(folder)):
            if file not in known:
                self.problems.append(Problem("missing_record", str(root), file, "no record names it; left out"))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(self.source.root / item.name)
        size = Size(image.height, image.width)
        if item.size is not None and item.size != size:
            raise InputError(
                f"Expected {item.size.width}x{item.size.height} pixels of {item.name!r}, as its record says, got "
                f"{size.width}x{size.height} in {str(self.source.root)!r}: fetch the picture again."
            )
        return Sample(
            name=item.name,
            group=item.generator or group_of(item.name),
            image=image,
            fake=item.fake,
            truth=_fakexplained_truth(item, size),
            categorised=False,
            anomalies=tuple(Claim(explanation=region.description) for region in item.regions),
        )


def _fakexplained_truth(item: FakexplainedImage, size: Size) -> Analysis:
    regions = []
    for region in item.regions:
        box = clip_box(region.box, size)
        if box is None:
            raise InputError(
                f"Expected boxes inside {size.width}x{size.height} pixels of {item.name!r}, got {region.box}: "
                "give boxes in pixels of the picture."
            )
        # No description tells of which kind a flaw is; nothing that is measured on such truth looks at the category.
        flaw = Region(mask=None, box=box, name="truth", explanation=region.description, category=Category.TEXTURE)
        regions.append(flaw)
    return Analysis(size=size, regions=tuple(regions), tags=item.tags, detector="fakexplained")
