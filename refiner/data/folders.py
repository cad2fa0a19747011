"""Folders of images, of any depth and format, with masks, prompts and references if there are any."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os.path import isdir, isfile
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from refiner.data.anomreason import anomalies_at, index_anomalies, label_of
from refiner.data.json_stream import Place, Places
from refiner.data.names import basename, find_file, same
from refiner.data.problems import Problem
from refiner.data.prompts import match_prompts, read_prompts
from refiner.data.samples import Sample, group_of, joined_truth
from refiner.errors import InputError
from refiner.images import load_image, open_image, orientation_of, orientation_tag
from refiner.mask_images import mask_of
from refiner.masks import turned
from refiner.reading import reason_of
from refiner.types import Analysis, Mask, Size

SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".icb", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
        *(".jpf", ".jpg", ".jpx", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".vda"),
        *(".vst", ".webp"),
    }
)
"""File names that count as images: those that Pillow knows for its formats ``refiner.images.FORMATS``."""
MASKS: Final = "masks"
"""The sub-folder of the truth: ``masks/<image without its suffix>.png``; see ``read_mask``."""
METADATA: Final = ("metadata.csv", "metadata.jsonl")
"""Files of prompts in the folder itself, as the hub's image folders have them; the first one that exists is read."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The names of the images below a folder; the images are not read."""

    root: Path
    names: tuple[str, ...]
    """Paths from the root with forward slashes, sorted."""
    twins: frozenset[str] = frozenset()
    """Images that differ from another one only in the suffix, so that a mask fits both."""

    @classmethod
    def open(cls, folder: str | Path, problems: list[Problem]) -> ImageFolder:
        """List the images; hidden files are ignored.

        Problems: ``ignored_file`` (not an image, or not a mask), and for masks ``unknown_image`` (of no image) and
        ``duplicate_basename`` (of several).

        Raises:
            InputError: there is no such folder, or no image in it.
        """
        root = Path(folder)
        if not isdir(root):
            raise InputError(f"Expected a folder of images, but {str(root)!r} is not a folder: check the path.")
        names = []
        for name in _files(root):
            if name.startswith(f"{MASKS}/") or name in METADATA:
                continue
            if _is_image(name):
                names.append(name)
            else:
                problems.append(Problem("ignored_file", str(root), name, "its suffix is not that of an image"))
        if not names:
            raise InputError(f"Expected images ({', '.join(sorted(SUFFIXES))}) in {str(root)!r}, got none: add some.")
        return cls(root=root, names=tuple(sorted(names)), twins=_match_masks(root, names, problems))

    def path(self, name: str) -> Path:
        """Path of an image."""
        return self.root / name

    def truth(self, name: str, image: Image.Image) -> Analysis | None:
        """The mask of an image, as ``load_image`` read it, as an analysis; None if the folder has no masks at all.

        Raises:
            InputError: the image has no mask, or one that cannot be read, has another size or fits another image too.
        """
        if not (self.root / MASKS).is_dir():
            return None
        path = find_file(self.root / MASKS, _mask_of(name))
        if name in self.twins:
            raise InputError(f"{str(path)!r} is the mask of {name!r} and of another image too: rename one of the two.")
        mask = read_mask(path, Size(image.height, image.width), orientation=orientation_of(image))
        return joined_truth(mask, str(path))


def _files(root: Path, *, deep: bool = True) -> Iterator[str]:
    """Files below a folder by their paths from there with forward slashes, sorted; hidden ones are ignored.

    Args:
        root: the folder.
        deep: all of them; else only those in the folder and in the folders directly in it.
    """
    for folder, below, files in os.walk(root):
        place = Path(folder).relative_to(root)
        below[:] = sorted(name for name in below if not name.startswith(".")) if deep or not place.parts else []
        yield from ((place / name).as_posix() for name in sorted(files) if not name.startswith("."))


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def find_images(root: Path, *, deep: bool) -> Iterator[str]:
    """Images below a folder by their paths from there, sorted; hidden ones are ignored, and links to folders too.

    Args:
        root: the folder.
        deep: all of them; else only those in the folder and in the folders directly in it.
    """
    return filter(_is_image, _files(root, deep=deep))


def _mask_of(name: str) -> str:
    return name if name.endswith(".png") else PurePosixPath(name).with_suffix(".png").as_posix()


def _match_masks(root: Path, names: list[str], problems: list[Problem]) -> frozenset[str]:
    """The images that share a mask; unusable masks are added to ``problems``."""
    if not (root / MASKS).is_dir():
        return frozenset()
    owners: dict[str, list[str]] = {}
    for name in names:
        owners.setdefault(same(_mask_of(name)), []).append(name)
    file = str(root / MASKS)
    for name in _files(root / MASKS):
        if PurePosixPath(name).suffix != ".png":
            problems.append(Problem("ignored_file", file, name, "expected a mask whose name ends in .png"))
        elif same(name) not in owners:
            problems.append(Problem("unknown_image", file, name, "there is no image of this mask"))
    shared = {mask: twins for mask, twins in owners.items() if len(twins) > 1}
    for mask, twins in shared.items():
        detail = f"fits {' and '.join(twins)}; these have no figures"
        problems.append(Problem("duplicate_basename", file, mask, detail))
    return frozenset(name for twins in shared.values() for name in twins)


def read_mask(path: Path, size: Size, *, indices: bool = False, orientation: int = 1) -> Mask:
    """Read the mask of an image from a file; bool (H, W) of ``size``.

    Args:
        path: an image file; see ``refiner.mask_images.mask_of`` for what is read.
        size: of the upright image that the mask belongs to.
        indices: the numbers of colours, not their greys, if the file has a palette.
        orientation: of that image's file (``refiner.images.orientation_of``). A mask of the sides of the stored pixels
            is turned along with them.

    Raises:
        InputError: missing, unreadable, of another size, of other values, or it cannot be known whether it belongs to
            the stored or to the upright pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(path) as image:
                if sorted(image.size) != sorted(size):
                    raise _wrong_size(path, image.size, size)
                own = orientation_tag(image)
                mask = mask_of(image, repr(str(path)), indices=indices)
    except InputError:
        raise
    except Exception as error:  # a decoder can raise anything on damaged data
        raise InputError(
            f"Cannot read the mask {str(path)!r} ({reason_of(error)}): download or export it again."
        ) from error
    mask = turned(mask, own)
    along = turned(mask, orientation if own == 1 else 1)
    if mask.shape == along.shape == size and not np.array_equal(mask, along):
        raise InputError(
            f"The image of the mask {str(path)!r} is turned by its EXIF orientation {orientation}, and nothing says "
            "whether the mask is turned too: save the image upright, without EXIF."
        )
    if size not in (mask.shape, along.shape):
        raise _wrong_size(path, mask.shape[::-1], size)
    return mask if mask.shape == size else along


def _wrong_size(path: Path, found: tuple[int, ...], size: Size) -> InputError:
    """``found`` is width and height."""
    return InputError(
        f"Expected a mask of {size.width}x{size.height} pixels, like its image, got {'x'.join(map(str, found))} in "
        f"{str(path)!r}: export it at the image's size."
    )


def metadata_of(folder: str | Path) -> str | None:
    """The path of the first of ``METADATA`` in a folder; None if there is none."""
    return next(filter(isfile, (str(Path(folder) / name) for name in METADATA)), None)


class FolderData:
    """A folder of images as a data set, with prompts, masks (``masks/`` in the folder) and references if there are any.

    Without a file of prompts, they are read from one of ``METADATA``; images without one are kept then. A folder
    ``1_fake`` or ``0_real`` in an image's path says whether it is generated. The first other folder is the group.
    """

    def __init__(self, folder: str, *, prompts: str | None = None, references: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.folder = ImageFolder.open(folder, self.problems)
        self.names = self.folder.names
        self.prompts, self.keys = dict[str, str](), dict[str, str]()
        """Prompts by name; the name of each image's prompt."""
        self.places: Places | None = None
        """Of each image's references."""
        if prompts is not None:
            self.prompts = read_prompts(prompts, self.problems)
            self.keys = match_prompts(self.names, self.prompts, prompts, self.problems)
            self.names = tuple(name for name in self.names if name in self.keys)
        elif (metadata := metadata_of(folder)) is not None:
            self._read_metadata(metadata)
        if references is not None:
            found = _match_references(self.names, references, self.problems)
            self.names = tuple(name for name in self.names if name in found)
            self.places = Places([Path(references)])
            for name in self.names:
                self.places.append(found[name])

    def _read_metadata(self, file: str) -> None:
        found: list[Problem] = []
        try:
            self.prompts = read_prompts(file, found)
        except InputError as error:
            found.append(Problem("ignored_file", file, "", f"no prompts in it: {error}"))
        else:
            self.keys = match_prompts(self.names, self.prompts, file, found)
        kept = {"missing_prompt": "the image has no prompt; kept without one"}
        self.problems += [each._replace(detail=kept.get(each.kind, each.detail)) for each in found]

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        image = load_image(self.folder.path(name))
        return Sample(
            name=name,
            group=group_of(name),
            prompt=self.prompts[self.keys[name]] if name in self.keys else "",
            image=image,
            fake=label_of(name),
            truth=self.folder.truth(name, image),
            categorised=False,
            itemised=False,
            anomalies=None if self.places is None else anomalies_at(self.places[index]),
        )


def _match_references(names: Iterable[str], file: str, problems: list[Problem]) -> dict[str, Place]:
    """References by image name; matched by the whole path, else by a file name that only one image has."""
    index = {same(key): place for key, place in index_anomalies(file, problems).items()}
    known = list(names)
    found = {name: index.pop(same(name)) for name in known if same(name) in index}
    owners: dict[str, list[str]] = {}
    for name in known if index else ():
        owners.setdefault(basename(name), []).append(name)
    for key, place in index.items():
        candidates = owners.get(basename(key), [])
        if len(candidates) == 1:
            found.setdefault(candidates[0], place)
        else:
            kind = "duplicate_basename" if candidates else "missing_image"
            problems.append(Problem(kind, file, key, f"{len(candidates)} images have this name; left out"))
    for name in known:
        if name not in found:
            problems.append(Problem("missing_reference", file, name, "the image has none; left out"))
    return found
