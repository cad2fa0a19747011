"""Data sets with annotations of their own, as what is evaluated sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from refiner.data.anomreason import Anomaly
from refiner.data.fakexplained import FakexplainedFolder, FakexplainedImage, read_record
from refiner.data.folders import SUFFIXES, find_pictures, group_of
from refiner.data.json_stream import Places
from refiner.data.problems import Problem
from refiner.data.xaigd import XaigdFolder, XaigdImage, XaigdReader
from refiner.errors import InputError, MissingExtraError
from refiner.evaluate_samples import Sample
from refiner.images import load_image
from refiner.masks import box_of, clip_box
from refiner.taxonomy import FROM_XAIGD, Category
from refiner.types import Analysis, Region, Size


class XaigdData:
    """X-AIGD's annotated pictures: those in its parquet files, or ``{generator}/{uid}.*`` there or in ``images/``.

    A picture that no record of any split names is named and counted as ``missing_record``; a record whose picture is
    nowhere is a sample with an error (``MissingImageError``).
    """

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        self.source = XaigdFolder.open(folder)
        root = Path(folder) / "images"
        self.root = root if root.is_dir() else Path(folder)
        self.places = Places(self.source.files)
        names: list[str] = []
        for image in self.source.images(self.problems):
            names.append(image.name)
            self.places.append(image.place)
        self.names = tuple(names)
        self.reader = XaigdReader()
        self.problems += self._without_record(deep=self.root != Path(folder))

    def _without_record(self, *, deep: bool) -> Iterator[Problem]:
        """The pictures that nothing is known of; ``deep`` as of ``find_pictures``."""
        known = set(self.names)
        files = [file for file in find_pictures(self.root, deep=deep) if file.rpartition(".")[0] not in known]
        if files:
            with suppress(InputError, MissingExtraError):  # a split that cannot be read tells of no picture
                known.update(self.source.other_names())
        for file in files:
            if file.rpartition(".")[0] not in known:
                yield Problem("missing_record", str(self.root), file, "no record of the data set names it; left out")

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item, image = self.reader.read(self.places[index])
        image = image or load_image(self._path(item))
        if (image.height, image.width) != tuple(item.size):
            raise InputError(
                f"Expected {item.size.width}x{item.size.height} pixels of {item.name!r}, as its annotation says, got "
                f"{image.width}x{image.height} in {str(self.root)!r}: fetch the picture again."
            )
        return Sample(name=item.name, group=item.generator, image=image, fake=True, truth=_xaigd_truth(item))

    def _path(self, item: XaigdImage) -> Path:
        folder = self.root / item.generator
        for suffix in sorted(SUFFIXES):
            if (path := folder / f"{item.uid}{suffix}").is_file():
                return path
        return folder / f"{item.uid}.png"


def _xaigd_truth(item: XaigdImage) -> Analysis:
    regions = []
    for category in sorted(item.categories):
        mask = item.mask(category)
        box = box_of(mask)
        if box is not None:
            regions.append(Region(mask=mask, box=box, name=str(category), category=FROM_XAIGD[category]))
    return Analysis(size=item.size, regions=tuple(regions), detector="x-aigd")


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
            anomalies=tuple(Anomaly(phenomenon=region.description) for region in item.regions),
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
