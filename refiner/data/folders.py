"""Folders of pictures, of any depth and format: what is there, whose it is, and its truth where that lies beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from refiner.data.anomreason import anomalies_at, basename, index_anomalies, label_of
from refiner.data.json_stream import Place, Places
from refiner.data.problems import Problem
from refiner.data.prompts import Prompts, match_prompts, read_prompts
from refiner.data.samples import Sample, group_of
from refiner.errors import InputError
from refiner.images import FORMATS, load_image
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Mask, Region, Size

SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".tga", ".jp2", ".avif"}
)
"""What is taken for a picture."""
MASKS: Final = "masks"
"""The sub-folder of truth: ``masks/<picture without its suffix>.png``; pixels above 127 are flawed."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The pictures below a folder, by name; none of them is read yet."""

    root: Path
    names: tuple[str, ...]
    """Paths from the root with forward slashes, sorted."""
    twins: frozenset[str] = frozenset()
    """Those that differ from another one in their suffix alone, so that a mask could be of either."""

    @classmethod
    def open(cls, folder: str | Path, problems: list[Problem]) -> ImageFolder:
        """List the pictures; hidden files are passed over.

        Named and counted in ``problems``: ``ignored_file`` (no picture, or no mask), and of the masks
        ``unknown_image`` (of no picture) and ``duplicate_basename`` (of several).

        Raises:
            InputError: there is no such folder, or no picture in it.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"Expected a folder of pictures, got {str(root)!r}, which is none: check the path.")
        names = []
        for name in _files(root):
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                names.append(name)
            else:
                problems.append(Problem("ignored_file", str(root), name, "its suffix is not that of a picture"))
        if not names:
            raise InputError(f"Expected pictures ({', '.join(sorted(SUFFIXES))}) in {str(root)!r}, got none.")
        return cls(root=root, names=tuple(sorted(names)), twins=_match_masks(root, names, problems))

    def path(self, name: str) -> Path:
        """Where a picture lies."""
        return self.root / name

    def truth(self, name: str, size: Size) -> Analysis | None:
        """What ``masks/`` says of a picture of ``size``; None where the folder has no masks at all.

        Raises:
            InputError: the picture has no mask, or one that cannot be read, is of another size or of another picture
            too.
        """
        if not (self.root / MASKS).is_dir():
            return None
        path = self.root / MASKS / _mask_of(name)
        if name in self.twins:
            raise InputError(
                f"Expected a mask of {name!r} alone, got {str(path)!r}, which is that of another picture too: "
                "rename one of them."
            )
        mask = read_mask(path, size)
        box = box_of(mask)
        # No mask tells of which kind a flaw is; nothing that is measured on such truth looks at the category.
        region = () if box is None else (Region(mask=mask, box=box, name="truth", category=Category.TEXTURE),)
        return Analysis(size=size, regions=region, detector=str(path))


def find_pictures(root: Path, *, deep: bool) -> Iterator[str]:
    """Pictures below a folder by their paths from there, sorted; hidden ones are passed over.

    Args:
        root: the folder.
        deep: however deep they lie; without it only those in the folder and in the folders directly in it.
    """
    for folder, below, files in os.walk(root):
        place = Path(folder).relative_to(root)
        below[:] = sorted(name for name in below if not name.startswith(".")) if deep or not place.parts else []
        for name in sorted(files):
            if not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES:
                yield (place / name).as_posix()


def _mask_of(name: str) -> str:
    return name if name.endswith(".png") else PurePosixPath(name).with_suffix(".png").as_posix()


def _match_masks(root: Path, names: list[str], problems: list[Problem]) -> frozenset[str]:
    """The pictures that share a mask; masks that are of no use are named."""
    if not (root / MASKS).is_dir():
        return frozenset()
    owners: dict[str, str] = {}
    shared: dict[str, list[str]] = {}
    for name in names:
        first = owners.setdefault(_mask_of(name), name)
        if first != name:
            shared.setdefault(_mask_of(name), [first]).append(name)
    file = str(root / MASKS)
    for name in sorted(_files(root / MASKS)):
        if PurePosixPath(name).suffix != ".png":
            problems.append(Problem("ignored_file", file, name, "expected a mask whose name ends in .png"))
        elif name not in owners:
            problems.append(Problem("unknown_image", file, name, "there is no picture of this mask"))
    for mask, twins in shared.items():
        detail = f"could be of {' or '.join(twins)}; no figures of these"
        problems.append(Problem("duplicate_basename", file, mask, detail))
    return frozenset(name for twins in shared.values() for name in twins)


def _files(root: Path) -> Iterator[str]:
    for folder, below, files in os.walk(root):
        place = Path(folder).relative_to(root)
        below[:] = [name for name in below if not name.startswith(".") and (place / name) != Path(MASKS)]
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def read_mask(path: Path, size: Size) -> Mask:
    """A mask from an 8-bit picture, True above 127; bool (H, W) of ``size``.

    Raises:
        InputError: missing, unreadable, or of another size.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            mask: Mask = np.asarray(image.convert("L")) > 127
    except Exception as error:  # a decoder fed with damaged data may raise anything
        raise InputError(f"Expected a mask in {str(path)!r}, got {error!r}: fetch or export it again.") from error
    if mask.shape != tuple(size):
        raise InputError(
            f"Expected a mask of {size.width}x{size.height} pixels, as its picture, got "
            f"{mask.shape[1]}x{mask.shape[0]} in {str(path)!r}: export it at the picture's size."
        )
    return mask


class FolderData:
    """A folder of pictures; with prompts, masks (``masks/`` in the folder) and references where there are any.

    Whether a picture is generated is told by a folder ``1_fake`` or ``0_real`` in its path, its group by the first
    other one.
    """

    def __init__(self, folder: str, *, prompts: str | None = None, references: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.folder = ImageFolder.open(folder, self.problems)
        self.names = self.folder.names
        self.prompts, self.keys = Prompts(), dict[str, str]()
        """Prompts by their names; the name of each picture's."""
        self.places: Places | None = None
        """Where each picture's references are."""
        if prompts is not None:
            self.prompts = read_prompts(prompts, self.problems)
            self.keys = match_prompts(self.names, self.prompts, prompts, self.problems)
            self.names = tuple(name for name in self.names if name in self.keys)
        if references is not None:
            found = _match_references(self.names, references, self.problems)
            self.names = tuple(name for name in self.names if name in found)
            self.places = Places([Path(references)])
            for name in self.names:
                self.places.append(found[name])

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        image = load_image(self.folder.path(name))
        return Sample(
            name=name,
            group=group_of(name),
            prompt=self.prompts[self.keys[name]] if self.keys else "",
            image=image,
            fake=label_of(name),
            truth=self.folder.truth(name, Size(image.height, image.width)),
            categorised=False,
            itemised=False,
            anomalies=None if self.places is None else anomalies_at(self.places[index]),
        )


def _match_references(names: Iterable[str], file: str, problems: list[Problem]) -> dict[str, Place]:
    """References by the pictures' names; matched by the whole path, else by a file name that only one picture has."""
    index = index_anomalies(file, problems)
    known = list(names)
    found = {name: index.pop(name) for name in known if name in index}
    owners: dict[str, list[str]] = {}
    for name in known if index else ():
        owners.setdefault(basename(name), []).append(name)
    for key, place in index.items():
        candidates = owners.get(basename(key), [])
        if len(candidates) == 1:
            found.setdefault(candidates[0], place)
        else:
            kind = "duplicate_basename" if candidates else "missing_image"
            problems.append(Problem(kind, file, key, f"{len(candidates)} pictures have this name; left out"))
    for name in known:
        if name not in found:
            problems.append(Problem("missing_reference", file, name, "the picture has none; left out"))
    return found
