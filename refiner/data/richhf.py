"""RichHF-18K: generated images with people's heat maps of artifacts and their scores (Liang et al., CVPR 2024).

``PLACE`` is a TFRecord file, such as ``richhf_18k/test.tfrecord``, or a folder that holds one. The images, which the
data set does not hold, lie beside the file, in ``images/`` if there is such a folder. An image is found by the record's
``filename``, else by its name without folders and suffix.

``artifact_map`` becomes the heat map of the truth, resized to the image; its pixels above ``THRESHOLD`` are the mask.
The data set names no threshold: half of the full intensity is ours, and a map that stays below it gives no mask.
``misalignment_map`` and ``prompt_misalignment_label`` are not read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image

from refiner.data.fields import image_name
from refiner.data.folders import find_images
from refiner.data.json_stream import Place, Places
from refiner.data.names import same
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.samples import Sample, group_of, joined_truth
from refiner.data.texts import Texts
from refiner.data.tfrecord import Feature, parse_example, read_tfrecord, stream_tfrecord
from refiner.errors import InputError
from refiner.images import MAX_PIXELS, load_image, open_image
from refiner.reading import reason_of
from refiner.types import Analysis, Score

SCORES: Final = ("aesthetics_score", "artifact_score", "misalignment_score", "overall_score")
"""Of each image; for all of them higher is better."""
THRESHOLD: Final = 0.5
"""A pixel of the heat map is flawed above this, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class RichhfImage:
    """One image with its truth."""

    name: str
    """``filename`` of the record, unique in the file."""
    scores: tuple[Score, ...]
    """Those that the record has."""
    artifacts: bytes | None
    """An image file of the heat map; None if the record has none."""
    place: Place
    """Of the record; ``read_record`` reads it again."""


def find_records(place: str | Path) -> Path:
    """The TFRecord file of a place.

    Raises:
        InputError: no such file, or a folder without exactly one file ``*.tfrecord``.
    """
    path = Path(place)
    if path.is_file():
        return path
    files = sorted(path.glob("*.tfrecord"))
    if len(files) != 1:
        found = " and ".join(file.name for file in files) or "none"
        raise InputError(f"Expected a TFRecord file of RichHF-18K in {str(place)!r}, got {found}: name one file.")
    return files[0]


def read_images(file: Path, problems: list[Problem]) -> Iterator[RichhfImage]:
    """Each image once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``duplicate_image`` (the first record counts), ``missing_map`` (the record is
    kept, without a truth) and ``damaged_file`` (what follows in the file is lost).
    """
    for image in usable_records(_records(file, problems), _read, str(file), problems, set()):
        if image.artifacts is None:
            problems.append(Problem("missing_map", str(file), image.name, "no artifact_map, so it has no truth"))
        yield image


def _records(file: Path, problems: list[Problem]) -> Iterator[tuple[str, Any, Any]]:
    number = 0
    try:
        for place, data in stream_tfrecord(file):
            yield f"record {number}", data, place
            number += 1
    except (OSError, ValueError) as error:
        detail = f"{error}, so that only {number} records are read; download the file again"
        problems.append(Problem("damaged_file", str(file), f"after record {number - 1}" if number else "", detail))


def read_record(place: Place) -> RichhfImage:
    """Read the record of an image again, and compare it with its checksum.

    Raises:
        InputError: the record is damaged, or the file has changed since the data set was opened.
    """
    try:
        return _read(read_tfrecord(place), place)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the record at byte {place.start} of {str(place.file)!r} ({error}): download the file again."
        ) from error


def _read(data: bytes, place: Place) -> RichhfImage:
    try:
        features = parse_example(data)
    except ValueError as error:
        raise UnusableError("bad_record", str(error)) from error
    name = image_name(_text(features, "filename"))
    scores = tuple(_score(features, score, name) for score in SCORES if features.get(score))
    artifacts = next(iter(features.get("artifact_map", ())), None)
    if artifacts is not None and not isinstance(artifacts, bytes):
        raise UnusableError("bad_record", "expected artifact_map as an image file, got a number", f", {name!r:.200}")
    return RichhfImage(name=name, scores=scores, artifacts=artifacts or None, place=place)


def _text(features: Mapping[str, Feature], name: str) -> str | None:
    value = next(iter(features.get(name, ())), None)
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


def _score(features: Mapping[str, Feature], name: str, image: str) -> Score:
    values = features[name]
    if len(values) != 1 or not isinstance(values[0], float) or not math.isfinite(values[0]):
        raise UnusableError("bad_record", f"expected {name} as one finite number, got {values!r:.60}", f", {image!r}")
    return Score(name=name.removesuffix("_score"), value=values[0])


class RichhfData:
    """RichHF-18K as a data set; every image is generated, and the flaws of an image are one mask.

    An image without a record is counted as ``missing_record``, a name that fits several images as
    ``duplicate_basename``. A record without an image is a sample with an error (``MissingImageError``).
    """

    def __init__(self, place: str) -> None:
        self.problems: list[Problem] = []
        file = find_records(place)
        root = file.parent / "images"
        self.root = root if root.is_dir() else file.parent
        self.places = Places([file])
        self.names = tuple(self._read_all(file))
        self.paths = Texts()
        """The image of each record; its own name if there is none."""
        self._match()

    def _read_all(self, file: Path) -> Iterator[str]:
        for image in read_images(file, self.problems):
            self.places.append(image.place)
            yield image.name

    def _match(self) -> None:
        images = {same(path): path for path in find_images(self.root, deep=True)}
        stems: dict[str, list[str]] = {}
        for path in sorted(images.values()):
            stems.setdefault(same(PurePosixPath(path).stem), []).append(path)
        used = set()
        for name in self.names:
            whole = images.get(same(name))
            found = stems.get(same(PurePosixPath(name).stem), []) if whole is None else [whole]
            if len(found) > 1:
                detail = f"fits {' and '.join(found):.200}; it has no image"
                self.problems.append(Problem("duplicate_basename", str(self.root), name, detail))
            used.update(found)
            self.paths.append(found[0] if len(found) == 1 else name)
        for path in sorted({*images.values()} - used):
            self.problems.append(Problem("missing_record", str(self.root), path, "no record names it; left out"))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(self.root / self.paths[index])
        return Sample(
            name=item.name,
            group=group_of(item.name),
            image=image,
            fake=True,
            truth=None if item.artifacts is None else _truth(item.artifacts, item.name, image),
            categorised=False,
            itemised=False,
            scores=item.scores,
        )


def _truth(artifacts: bytes, name: str, image: Image.Image) -> Analysis:
    try:
        with open_image(io.BytesIO(artifacts)) as found:
            if found.width * found.height > MAX_PIXELS:
                raise ValueError(f"{found.width}x{found.height} pixels")
            grey = found.convert("L").resize(image.size, Image.Resampling.BILINEAR)
    except Exception as error:  # a decoder can raise anything on damaged data
        raise InputError(
            f"Cannot read the heat map of {name!r} ({reason_of(error)}): download the file again."
        ) from error
    heatmap = np.asarray(grey, dtype=np.float32) / np.float32(255)
    return joined_truth(heatmap > THRESHOLD, "richhf-18k", heatmap)
