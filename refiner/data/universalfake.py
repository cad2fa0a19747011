"""Folders of generated and real images, as CNNSpot, ProGAN's training set and UniversalFakeDetect have them.

``FOLDER/GENERATOR/0_real`` and ``FOLDER/GENERATOR/1_fake`` hold the images, or ``FOLDER/GENERATOR/CLASS/0_real`` and so
on. A folder ``train``, ``val`` or ``test`` may stand anywhere above. Nothing says what is wrong in an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from refiner.data.anomreason import FAKE, REAL
from refiner.data.folders import find_images
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.errors import InputError
from refiner.images import load_image

LABELS: Final = {REAL: False, FAKE: True}
"""Folder -> whether its images are generated."""
SPLITS: Final = frozenset({"train", "val", "test"})
"""Folders that do not name a generator."""


class UniversalfakeData:
    """Images with a verdict each; the group is the generator, also of the real images that it is compared with.

    An image that is not in one of ``LABELS`` is counted as ``unlabelled`` and left out.
    """

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        self.root = Path(folder)
        if not self.root.is_dir():
            raise InputError(f"Expected a folder of generators, but {folder!r} is not a folder: check the path.")
        self.names = tuple(self._labelled())

    def _labelled(self) -> Iterator[str]:
        for name in find_images(self.root, deep=True):
            if len(_labels(name)) == 1:
                yield name
            else:
                detail = f"expected one folder {' or '.join(LABELS)} in its path; left out"
                self.problems.append(Problem("unlabelled", str(self.root), name, detail))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        folders = PurePosixPath(name).parts[:-1]
        [label] = _labels(name)
        above = (part for part in folders[: folders.index(label)] if part not in SPLITS)
        return Sample(
            name=name,
            group=next(above, self.root.resolve().name),
            image=load_image(self.root / name),
            fake=LABELS[label],
        )


def _labels(name: str) -> list[str]:
    return [part for part in PurePosixPath(name).parts[:-1] if part in LABELS]
