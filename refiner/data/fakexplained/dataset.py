"""FakeXplained's images as data sets."""

from __future__ import annotations

from os.path import isfile
from pathlib import Path

from refiner.data.fakexplained.images import IMAGES, FakexplainedImage
from refiner.data.fakexplained.records import find_records, read_images, read_record
from refiner.data.folders import find_images
from refiner.data.json_stream import Places
from refiner.data.names import find_file, same
from refiner.data.problems import Problem
from refiner.data.samples import Sample, check_size, group_of
from refiner.errors import InputError
from refiner.images import load_image
from refiner.types import Size


class FakexplainedFile:
    """One file of records anywhere: generated and real images with boxes and descriptions.

    A description becomes the explanation of a claim. Boxes are rounded outwards to whole pixels and cut to the image.
    The group is the generator, else the first folder of the image's name. The truth is categorised if each region of
    the image has a category; of an image without regions, if any region of the file has one. A record without an image
    is a sample with an error (``MissingImageError``).

    Args:
        file: JSON Lines (``.jsonl``) or a JSON list.

    Raises:
        InputError: the file is missing or damaged as a whole.
    """

    def __init__(self, file: str | Path) -> None:
        path = Path(file)
        if not path.is_file():
            raise InputError(f"Expected a file of records, but {str(file)!r} is not a file: check the path.")
        self.problems: list[Problem] = []
        self.folder = path.parent
        self.places = Places([path])
        self.categorised = False
        names: list[str] = []
        for image in read_images(path, self.problems):
            names.append(image.name)
            self.places.append(image.place)
            self.categorised = self.categorised or any(region.category for region in image.regions)
        self.names = tuple(names)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(self._path(item))
        size = Size(image.height, image.width)
        check_size(size, item.size or size, item.name, self.folder)
        return Sample(
            name=item.name,
            group=item.generator or group_of(item.name),
            image=image,
            fake=item.fake,
            truth=item.truth(size),
            categorised=all(region.category for region in item.regions) if item.regions else self.categorised,
            anomalies=tuple(region.claim() for region in item.regions),
        )

    def _path(self, item: FakexplainedImage) -> Path:
        paths = [find_file(self.folder, path) for path in item.paths]
        return next(filter(isfile, paths), paths[0])


class FakexplainedData(FakexplainedFile):
    """A folder with its file of records; see ``FakexplainedFile``.

    An image without a record is counted as ``missing_record``.

    Raises:
        InputError: there is no such folder, or its file of records is missing or damaged as a whole.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(find_records(folder))
        root = self.folder / IMAGES
        known = set(map(same, self.names))
        for found in find_images(root if root.is_dir() else self.folder, deep=root.is_dir()):
            if same(found) not in known:
                self.problems.append(Problem("missing_record", str(root), found, "no record names it; left out"))
