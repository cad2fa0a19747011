"""PAL4VST: generated images with binary masks of their artifacts (Perceptual Artifacts Localization, ICCV 2023).

The layout of the published folders is not documented. An image and its mask belong together if their paths differ only
in the suffix and in one of these:

- a folder of ``IMAGE_FOLDERS`` in place of one of ``MASK_FOLDERS``, at any depth, such as ``TASK/images/1.jpg`` and
  ``TASK/masks/1.png``, or ``img_dir/test/1.jpg`` and ``ann_dir/test/1.png``;
- an ending of the mask's name among ``MASK_ENDINGS``, such as ``TASK/1.jpg`` and ``TASK/1_mask.png``.

Masks hold the values 0 and 1, or 0 and 255.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from refiner.data.folders import find_images, read_mask
from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.data.samples import Sample, joined_truth
from refiner.data.texts import Texts
from refiner.data.verdicts import SPLITS
from refiner.errors import InputError
from refiner.images import load_image, orientation_of
from refiner.types import Size

IMAGE_FOLDERS: Final = frozenset({"images", "image", "imgs", "img", "img_dir"})
MASK_FOLDERS: Final = frozenset({"masks", "mask", "labels", "label", "annotations", "ann_dir", "gt"})
MASK_ENDINGS: Final = ("_mask", "_label", "_gt")


class Pal4vstData:
    """Images with a mask each; every image is generated, and the group is the first folder, such as the task.

    Problems: ``missing_mask`` (an image without one; left out), ``unknown_image`` (a mask of no image) and
    ``duplicate_basename`` (several images or masks that belong together; left out). A mask that cannot be read, or
    has another size or other values, is an error of its sample.
    """

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        self.root = Path(folder)
        if not self.root.is_dir():
            raise InputError(f"Expected a folder of images and masks, but {folder!r} is not a folder: check the path.")
        images, masks = dict[str, list[str]](), dict[str, list[str]]()
        for name in find_images(self.root, deep=True):
            (masks if _is_mask(name) else images).setdefault(_shared(name), []).append(name)
        self.masks = Texts()
        """The mask of each image."""
        names = []
        for key, found in images.items():
            theirs = masks.pop(key, [])
            if len(found) == len(theirs) == 1:
                names += found
                self.masks.append(theirs[0])
            elif theirs:
                self._note("duplicate_basename", found[0], f"{' and '.join(found + theirs):.300} belong together")
            else:
                for name in found:
                    self._note("missing_mask", name, "no mask belongs to it; left out")
        for alone in masks.values():
            self._note("unknown_image", alone[0], "no image belongs to this mask")
        self.names = tuple(names)

    def _note(self, kind: str, name: str, detail: str) -> None:
        self.problems.append(Problem(kind, str(self.root), name, detail))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        image = load_image(self.root / name)
        size, orientation = Size(image.height, image.width), orientation_of(image)
        mask = read_mask(self.root / self.masks[index], size, indices=True, orientation=orientation)
        return Sample(
            name=name,
            group=next((part for part in _folders(name) if part not in SPLITS | IMAGE_FOLDERS), ""),
            image=image,
            fake=True,
            truth=joined_truth(mask, "pal4vst"),
            categorised=False,
            itemised=False,
        )


def _folders(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts[:-1]


def _is_mask(name: str) -> bool:
    """Whether the folders say so, or the name if they say nothing."""
    folders = set(_folders(name))
    if folders & (MASK_FOLDERS | IMAGE_FOLDERS):
        return not folders & IMAGE_FOLDERS
    return PurePosixPath(name).stem.endswith(MASK_ENDINGS)


def _shared(name: str) -> str:
    """What the paths of an image and its mask have in common."""
    stem = PurePosixPath(name).stem
    for ending in MASK_ENDINGS if _is_mask(name) else ():
        stem = stem.removesuffix(ending)
    return same("/".join([*(part for part in _folders(name) if part not in MASK_FOLDERS | IMAGE_FOLDERS), stem]))
