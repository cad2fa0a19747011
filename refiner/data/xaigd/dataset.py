"""X-AIGD's annotated images as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from refiner.data.folders import SUFFIXES, find_images
from refiner.data.json_stream import Places
from refiner.data.problems import Problem
from refiner.data.samples import Sample, check_size
from refiner.data.xaigd.annotations import FIELDS, XaigdFolder, XaigdImage, read_record
from refiner.data.xaigd.pictures import COLUMN, ParquetRows
from refiner.errors import InputError, MissingExtraError
from refiner.images import load_image
from refiner.masks import box_of
from refiner.taxonomy import FROM_XAIGD
from refiner.types import Analysis, Region, Size


class XaigdData:
    """X-AIGD's annotated images: in its parquet files, or as ``{generator}/{uid}.*`` in the folder or in ``images/``.

    An image without a record in any split is counted as ``missing_record``. A record without an image is a sample with
    an error (``MissingImageError``).
    """

    polygons = "clipped"

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
        self.rows = ParquetRows((*FIELDS, COLUMN))
        self.problems += self._without_record(deep=self.root != Path(folder))

    def _without_record(self, *, deep: bool) -> Iterator[Problem]:
        """The images without a record; ``deep`` as for ``find_images``."""
        known = set(self.names)
        files = [file for file in find_images(self.root, deep=deep) if file.rpartition(".")[0] not in known]
        if files:
            with suppress(InputError, MissingExtraError):  # a split that cannot be read has no records
                known.update(self.source.other_names())
        for file in files:
            if file.rpartition(".")[0] not in known:
                yield Problem("missing_record", str(self.root), file, "no record of the data set names it; left out")

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item, image = read_record(self.rows, self.places[index])
        image = image or load_image(self._path(item))
        check_size(Size(image.height, image.width), item.size, item.name, self.root)
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
