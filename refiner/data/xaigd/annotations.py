"""X-AIGD's annotations: polygons of seven categories on generated images (arXiv 2601.19430, data set Coxy7/X-AIGD).

A folder holds splits, such as ``data/labeled_test-00000-of-00002.parquet``. The same records can be JSON Lines
(``labeled_test.jsonl``) or a JSON list, which need no pyarrow. A record has ``generator``, ``uid``, ``width``,
``height`` and ``labels``, a list of ``{"label": category, "points": [[x, y], ...]}``; no labels means no artifacts.
An image whose record cannot be read is named, counted and left out, because there is no truth to score against.
The published parquet files hold the images too, in the column ``image`` (see ``refiner.data.parquet``).

A split whose name begins with ``unlabeled`` was not annotated: nothing is known about the artifacts of its images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.data.fields import is_inside
from refiner.data.json_stream import Place, stream_records
from refiner.data.parquet import ParquetRows, decoded, image_bytes, stream_rows
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.raster import fill_polygons
from refiner.errors import InputError
from refiner.images import MAX_PIXELS
from refiner.reading import reason_of
from refiner.taxonomy import XaigdCategory
from refiner.types import Mask, Size

FIELDS: Final = ("generator", "uid", "width", "height", "labels")
COLUMN: Final = "image"
"""The column of the images in parquet files."""
DEFAULT_SPLIT: Final = "labeled_test"
"""The split that the official evaluation reads."""
_SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-\d+)?\.(parquet|jsonl|json)")
_PLACES = ("data", "annotations", ".")


@dataclass(frozen=True, kw_only=True, eq=False)
class XaigdLabel:
    """One outlined artifact."""

    category: XaigdCategory
    points: NDArray[np.float64]
    """Float (N, 2), N >= 3: x and y in pixels of the image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class XaigdImage:
    """One generated image with its truth."""

    generator: str
    uid: str
    """Identifies the prompt and the paired real image; the same for all generators."""
    size: Size
    labels: tuple[XaigdLabel, ...]
    place: Place
    """Of its record; ``read_record`` reads it again."""

    @property
    def name(self) -> str:
        """``generator/uid``, unique in the data set."""
        return f"{self.generator}/{self.uid}"

    @property
    def categories(self) -> frozenset[XaigdCategory]:
        """The categories of its artifacts."""
        return frozenset(label.category for label in self.labels)

    def mask(self, category: XaigdCategory | None = None) -> Mask:
        """The truth, drawn as in the official evaluation: bool (H, W), of one category or of all."""
        wanted = (label.points for label in self.labels if category in (None, label.category))
        return fill_polygons(wanted, self.size)


@dataclass(frozen=True, kw_only=True)
class XaigdFolder:
    """A split of the data set on disk; ``images`` reads it record by record."""

    split: str
    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    """Files of the other splits."""

    @classmethod
    def open(cls, folder: str | Path, split: str | None = None) -> XaigdFolder:
        """Find the files of a split.

        Args:
            folder: holds ``<split>.jsonl``, ``<split>.json`` or ``<split>-00000-of-00001.parquet``, itself or in
                ``data`` or ``annotations``.
            split: None means ``labeled_test`` if there is one, else the only one.

        Raises:
            InputError: no such folder or split, or several splits to choose from.
        """
        root = Path(folder)
        splits = _find_splits(root)
        known = ", ".join(sorted(splits)) or "none"
        wanted = "one split" if split is None else f"the split {split!r}"
        if split is None and (DEFAULT_SPLIT in splits or len(splits) == 1):
            split = DEFAULT_SPLIT if DEFAULT_SPLIT in splits else next(iter(splits))
        if split not in splits:
            raise InputError(
                f"Expected {wanted} of X-AIGD (parquet, JSON Lines or JSON) in {str(root)!r}, got {known}: "
                "name an existing split, or download the data set again."
            )
        others = (path for name in sorted(splits) if name != split for path in sorted(splits[name]))
        return cls(split=split, files=tuple(sorted(splits[split])), others=tuple(others))

    def other_names(self) -> Iterator[str]:
        """``generator/uid`` of the records of all other splits.

        Raises:
            InputError: a whole file is damaged.
            MissingExtraError: parquet files without pyarrow.
        """
        for file in self.others:
            for _, row, _ in _rows(file):
                if isinstance(row, Mapping):
                    yield f"{row.get('generator')}/{row.get('uid')}"

    def images(self, problems: list[Problem], names: set[str] | None = None) -> Iterator[XaigdImage]:
        """Each image once, in the order of the files. Problems are added to ``problems``, names to ``names``.

        Kinds of problems: ``bad_record``, ``unknown_category``, ``bad_polygon`` and ``duplicate_image`` (the first
        record counts).

        Raises:
            InputError: a whole file is damaged.
            MissingExtraError: parquet files without pyarrow.
        """
        seen: set[str] = set() if names is None else names
        for file in self.files:
            yield from usable_records(_rows(file), _read_image, str(file), problems, seen)


def read_record(rows: ParquetRows, place: Place) -> tuple[XaigdImage, Image.Image | None]:
    """Read a record again, with its image: upright RGB, or None if the image is a separate file.

    Args:
        rows: reads the columns ``FIELDS`` and ``COLUMN`` of parquet files.
        place: of the record.

    Raises:
        InputError: file or image cannot be read, or the file has changed since the data set was opened.
    """
    data = None
    if place.length:
        try:
            row = place.read()
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(place.file, error) from error
    else:
        row = rows.read(place.file, place.start)
        data = image_bytes(row.get(COLUMN))
    try:
        image = _read_image(row, place)
    except UnusableError as error:
        raise InputError(
            f"Cannot read the record at {place.start} in {str(place.file)!r} again ({error}): do not change the file "
            "during the evaluation."
        ) from error
    return image, decoded(data, f"row {place.start} of {str(place.file)!r}") if data else None


def _find_splits(root: Path) -> dict[str, list[Path]]:
    if not isdir(root):
        raise InputError(
            f"Expected the folder of X-AIGD, but {str(root)!r} is not a folder: name the data set's folder."
        )
    for place in _PLACES:
        splits: dict[str, list[Path]] = {}
        for path in (root / place).glob("*"):
            match = _SHARD.fullmatch(path.name)
            if match and path.is_file():
                splits.setdefault(match["split"], []).append(path)
        if splits:
            return splits
    return {}


def _rows(file: Path) -> Iterator[tuple[str, Any, Place]]:
    """The place in words, the record and the place of each record; a line that is not JSON is returned as its text."""
    if file.suffix == ".parquet":
        yield from stream_rows(file, FIELDS, "X-AIGD's annotations")
        return
    try:
        yield from ((where, item.value, item.place) for where, item in stream_records(file))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(
        f"Cannot read X-AIGD's annotations in {str(file)!r} ({reason_of(error)}): download the file again."
    )


def _read_image(row: Any, place: Place) -> XaigdImage:
    if not isinstance(row, Mapping) or any(row.get(name) is None for name in FIELDS[:-1]):
        raise UnusableError("bad_record", f"expected the fields {', '.join(FIELDS)}")
    generator, uid = str(row["generator"]), str(row["uid"])
    where = f", {generator}/{uid}"
    if not (_is_name(generator) and _is_name(uid)):
        raise UnusableError("bad_record", "expected generator and uid to be valid folder names", where)
    height, width, labels = row["height"], row["width"], row.get("labels") or ()
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width))
    if not whole or height * width > MAX_PIXELS or not isinstance(labels, Sequence) or isinstance(labels, str | bytes):
        detail = f"expected height and width of at most {MAX_PIXELS} pixels together, and a list of labels"
        raise UnusableError("bad_record", detail, where)
    known = tuple(_read_label(label, f"{where}, label {number}") for number, label in enumerate(labels))
    return XaigdImage(generator=generator, uid=uid, size=Size(height, width), labels=known, place=place)


def _is_name(text: str) -> bool:
    return "/" not in text and is_inside(text)


def _read_label(label: Any, where: str) -> XaigdLabel:
    name = label.get("label") if isinstance(label, Mapping) else None
    if name not in list(XaigdCategory):
        raise UnusableError("unknown_category", f"expected a category of X-AIGD, got {name!r}", where)
    try:
        points = np.asarray(label.get("points"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise UnusableError("bad_polygon", "expected at least three points of two finite numbers", where)
    return XaigdLabel(category=XaigdCategory(name), points=points)
