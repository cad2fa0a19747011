"""X-AIGD's real images, which the generated ones were made from: files that are named by ``uid``.

Read in the data set's card: a generated image inherits the ``uid`` of the real image whose caption it was made from,
and ``download_real_images.py --output-dir ./real_images`` writes the real images. Our guess is that it names each file
by its ``uid``, at any depth. The gated repository Coxy7/X-AIGD-real was not at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from os.path import isdir
from pathlib import Path, PurePosixPath
from typing import Final

from refiner.data.anomreason import REAL
from refiner.data.folders import find_images
from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.errors import InputError
from refiner.images import load_image

FOLDER: Final = "real_images"
"""The folder in the data set's own that is read if no other one is named."""
NONE: Final = "none"
"""In place of a folder: no real images."""


class RealImages:
    """The real images that have generated partners.

    Kinds of problems: ``duplicate_basename`` (another image has the same ``uid``; the first one counts) and
    ``missing_record`` (no record has its ``uid``). Images of other splits are left out without a word.

    Args:
        folder: with the images.
        uids: of the generated images, in the form of ``names.same``.
        others: makes the ``uid`` of the records of other splits; called if it matters.
        problems: gets the problems.
    """

    def __init__(
        self, folder: Path, uids: Collection[str], others: Callable[[], Collection[str]], problems: list[Problem]
    ) -> None:
        self.folder = folder
        found: dict[str, str] = {}
        unknown: dict[str, str] = {}
        for name in find_images(folder, deep=True):
            uid = same(PurePosixPath(name).stem)
            chosen = found if uid in uids else unknown
            if chosen.setdefault(uid, name) != name:
                detail = f"{chosen[uid]} has the same uid; the first one counts"
                problems.append(Problem("duplicate_basename", str(folder), name, detail))
        known = others() if unknown else ()
        for uid, name in unknown.items():
            if uid not in known:
                detail = "no record of the data set has its uid; left out"
                problems.append(Problem("missing_record", str(folder), name, detail))
        self.paths = tuple(found.values())
        """From the folder."""
        self.names = tuple(f"{REAL}/{uid}" for uid in found)

    @classmethod
    def find(cls, root: Path, place: str | None) -> Path | None:
        """The folder of real images; None if there is none.

        Args:
            root: the data set's folder.
            place: a folder, ``NONE``, or None for ``FOLDER`` in the root, if it exists.

        Raises:
            InputError: there is no such folder.
        """
        if place is None:
            return root / FOLDER if (root / FOLDER).is_dir() else None
        if place == NONE:
            return None
        if not isdir(place):
            raise InputError(f"Expected a folder of real images, but {place!r} is not a folder: check the path.")
        return Path(place)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return Sample(
            name=name,
            image=load_image(self.folder / self.paths[index]),
            fake=False,
            pair=PurePosixPath(name).name,
        )
