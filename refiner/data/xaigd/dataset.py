"""X-AIGD's images as a data set: the generated ones with their artifacts, and the real ones that they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from os.path import isfile
from pathlib import Path
from typing import Final

from refiner.data.folders import SUFFIXES, find_images
from refiner.data.json_stream import Places
from refiner.data.names import find_file, same
from refiner.data.parquet import ParquetRows
from refiner.data.problems import Problem
from refiner.data.samples import Sample, check_size
from refiner.data.snapshots import find_folder
from refiner.data.xaigd.annotations import COLUMN, DEFAULT_SPLIT, FIELDS, XaigdFolder, XaigdImage, read_record
from refiner.data.xaigd.real import FOLDER, RealImages
from refiner.errors import InputError, MissingExtraError
from refiner.images import load_image
from refiner.masks import box_of
from refiner.taxonomy import FROM_XAIGD
from refiner.types import Analysis, Region, Size

_UNLABELLED: Final = "unlabeled"
"""The names of splits begin with it whose images nobody annotated."""


class XaigdData:
    """X-AIGD's generated images, then the real images that they belong to.

    The generated images are in the parquet files, or ``{generator}/{uid}.*`` in the folder or in ``images/``. Their
    group is the generator; a real image belongs to no group, because all generators share it. The pair is the ``uid``.

    An image without a record in any split is counted as ``missing_record``. A record without an image is a sample with
    an error (``MissingImageError``). See ``RealImages`` for the problems of real images.

    Args:
        folder: of the data set, or its id on the hub, such as ``Coxy7/X-AIGD``; of it only the split is downloaded.
        split: one of its splits, or several with ``+`` between them, such as ``labeled_train+unlabeled_train``. None
            means ``labeled_test`` if there is one, else the only one.
        real: folder of the real images. None means ``real_images`` in the folder, if there is one; ``none`` means that
            they are left out.

    Raises:
        InputError: no such folder or split, or a file that is damaged as a whole.
        MissingExtraError: parquet files without pyarrow.
    """

    polygons = "clipped"

    def __init__(self, folder: str, *, split: str | None = None, real: str | None = None) -> None:
        self.problems: list[Problem] = []
        splits = [None] if split is None else split.split("+")
        self.folder = find_folder(folder, [f"data/{each or DEFAULT_SPLIT}-*" for each in splits])
        self.sources = [XaigdFolder.open(self.folder, each) for each in splits]
        root = self.folder / "images"
        self.root = root if root.is_dir() else self.folder
        self.places = Places([file for source in self.sources for file in source.files])
        self.splits = {file: source.split for source in self.sources for file in source.files}
        """Of each file."""
        names: set[str] = set()
        generated, uids = list[str](), set[str]()
        for source in self.sources:
            for image in source.images(self.problems, names):
                generated.append(image.name)
                uids.add(same(image.uid))
                self.places.append(image.place)
        self.rows = ParquetRows((*FIELDS, COLUMN))
        place = RealImages.find(self.folder, real)
        self.problems += self._without_record(generated, place or self.folder / FOLDER)
        self.real = None if place is None else RealImages(place, uids, self._other_uids, self.problems)
        self.names = (*generated, *(() if self.real is None else self.real.names))

    @property
    def pairs(self) -> list[str]:
        """The ``uid`` of each sample."""
        return [same(name.rpartition("/")[2]) for name in self.names]

    def _other_names(self) -> Iterator[str]:
        """``generator/uid`` of the records of all splits that are not read; a split that cannot be read has none."""
        with suppress(InputError, MissingExtraError):
            yield from self.sources[0].other_names()

    def _other_uids(self) -> set[str]:
        return {same(name.rpartition("/")[2]) for name in self._other_names()}

    def _without_record(self, generated: list[str], real: Path) -> Iterator[Problem]:
        """The images without a record, except for those in the folder of real images."""
        known, apart = set(map(same, generated)), real.resolve()
        images = find_images(self.root, deep=self.root != self.folder)
        files = [file for file in images if same(file.rpartition(".")[0]) not in known]
        files = [file for file in files if not (self.root / file).resolve().is_relative_to(apart)]
        if files:
            known.update(map(same, self._other_names()))
        for file in files:
            if same(file.rpartition(".")[0]) not in known:
                yield Problem("missing_record", str(self.root), file, "no record of the data set names it; left out")

    def load(self, index: int) -> Sample:
        """Read one sample."""
        if index >= len(self.places) and self.real is not None:
            return self.real.load(index - len(self.places))
        place = self.places[index]
        item, image = read_record(self.rows, place)
        image = image or load_image(self._path(item))
        check_size(Size(image.height, image.width), item.size, item.name, self.root)
        split = self.splits[place.file]
        return Sample(
            name=item.name,
            group=item.generator,
            image=image,
            fake=True,
            truth=None if split.startswith(_UNLABELLED) else _xaigd_truth(item),
            split=split,
            pair=same(item.uid),
        )

    def _path(self, item: XaigdImage) -> Path:
        paths = (find_file(self.root, f"{item.name}{suffix}") for suffix in sorted(SUFFIXES))
        return next(filter(isfile, paths), self.root / f"{item.name}.png")


def _xaigd_truth(item: XaigdImage) -> Analysis:
    regions = []
    for category in sorted(item.categories):
        mask = item.mask(category)
        box = box_of(mask)
        if box is not None:
            regions.append(Region(mask=mask, box=box, name=str(category), category=FROM_XAIGD[category]))
    return Analysis(size=item.size, regions=tuple(regions), detector="x-aigd")
