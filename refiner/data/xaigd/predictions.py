"""Predicted masks in X-AIGD's official folder layout, and the sizes at which they are compared with the truth.

``ROOT/{generator}/{uid}/*.png`` holds masks of all categories together, ``ROOT/{generator}/{category}/{uid}/*.png``
those of one category. The masks of one folder are joined.

A mask is read for what it shows, as everywhere (``refiner.mask_images``): also one of 0 and 1, with a palette, of one
colour, of more bits, or with its shape in alpha; what is ambiguous is refused. EXIF turns a mask.

The official scripts read all masks with OpenCV as 8-bit grey, and pixels above a threshold are flawed. With a
threshold, this module does the same without OpenCV: grey of a colour PNG is cut off, not rounded; grey of a JPEG, which
may be named ``.png``, is its brightness channel; EXIF turns a mask; transparency is ignored. One departure: PNGs with
16 bits per colour are first cut to 8, which changes about 0.3 % of random pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from refiner.data.problems import Problem
from refiner.data.raster import centre_crop, resize_nearest
from refiner.errors import ConfigError, InputError
from refiner.images import open_image, orientation_tag
from refiner.mask_images import mask_of
from refiner.masks import turned
from refiner.reading import reason_of
from refiner.taxonomy import XaigdCategory
from refiner.types import Mask, Size

OFFICIAL_THRESHOLD: Final = 127
_GREY: Final = np.array((9797, 19234, 3737), dtype=np.int64)
"""Weights of red, green and blue in units of 1 / 2**15, as libpng has them for OpenCV."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How the truth is brought to the size of the predictions: resized with nearest neighbours, then cropped.

    Raises:
        ConfigError: a side is below 1, or both ways to resize are given.
    """

    resize: Size | None = None
    """Resize to this size."""
    short_side: int | None = None
    """Resize so that the shorter side has this length; the longer one is cut off to whole pixels."""
    crop: Size | None = None
    """Then keep the centre of this size."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.short_side is not None:
            raise ConfigError(
                f"Expected one way to resize, got the size {tuple(self.resize)} and the short side {self.short_side}: "
                "leave one of them out."
            )
        for side in (*(self.resize or ()), *(self.crop or ()), 1 if self.short_side is None else self.short_side):
            if side < 1:
                raise ConfigError(f"Expected sides of at least 1 pixel to resize or crop to, got {side}: enlarge them.")

    @classmethod
    def named(cls, name: str) -> Transform:
        """The transform of a name in ``TRANSFORMS``.

        Raises:
            ConfigError: there is no such name.
        """
        if name not in TRANSFORMS:
            raise ConfigError(
                f"Expected a transform of {', '.join(TRANSFORMS)}; got {name!r}: name one of these, or give the sizes."
            )
        return TRANSFORMS[name]

    @property
    def signature(self) -> str:
        """The official name if there is one, else the sizes as width x height."""
        known = {transform: OFFICIAL_TRANSFORMS[name] for name, transform in TRANSFORMS.items()}
        if self in known:
            return known[self]
        parts = {"resize": self.resize, "short": self.short_side, "crop": self.crop}
        written = {
            name: f"{side.width}x{side.height}" if isinstance(side, Size) else side for name, side in parts.items()
        }
        return "-".join(f"{name}{side}" for name, side in written.items() if side is not None)

    def _resized(self, size: Size) -> Size:
        if self.short_side is not None:
            short = min(size)
            return Size(size.height * self.short_side // short, size.width * self.short_side // short)
        return self.resize or size

    def size(self, size: Size) -> Size:
        """The size that a prediction must have for an image of ``size``.

        Raises:
            ConfigError: the image is too small for the crop.
        """
        resized = self._resized(size)
        crop = self.crop or resized
        if crop.height > resized.height or crop.width > resized.width:
            raise ConfigError(
                f"Expected images of at least {crop.width}x{crop.height} pixels to crop, got one of {resized.width}x"
                f"{resized.height} after resizing: choose a smaller crop."
            )
        return crop

    def __call__(self, mask: Mask) -> Mask:
        """Transform a bool (H, W) mask of the truth."""
        size = Size(*mask.shape)
        resized, wanted = self._resized(size), self.size(size)
        return centre_crop(mask if resized == size else resize_nearest(mask, resized), wanted)


TRANSFORMS: Final[Mapping[str, Transform]] = MappingProxyType(
    {
        "keep": Transform(),
        "256-224": Transform(resize=Size(256, 256), crop=Size(224, 224)),
        "518": Transform(short_side=518, crop=Size(518, 518)),
    }
)
"""The image's own size; 256x256, then the centre 224x224; shortest side 518, then the centre 518x518."""
OFFICIAL_TRANSFORMS: Final[Mapping[str, str]] = MappingProxyType(
    {"keep": "keep-original-size", "256-224": "resize256-crop224", "518": "resize518-crop518"}
)
"""The names in the official scripts, before these took any sizes."""


def read_prediction(folder: Path, size: Size, problems: list[Problem], threshold: int | None = None) -> Mask | None:
    """Join the masks of a folder.

    Args:
        folder: of an image's masks.
        size: that the masks must have.
        problems: gets what is wrong. A mask that cannot be used (``wrong_size``, ``unreadable_mask``,
            ``ambiguous_mask``) and a file that is not a PNG (``ignored_file``) are left out. A mask in which the
            official scripts find other pixels is used (``read_differently``). With a threshold, so is one without a
            value above it that is not all 0 (``faint_mask``).
        threshold: None reads what a mask shows. A number, 0 to 255, reads it as the official scripts do: flawed is what
            is above this grey.

    Returns:
        Bool (H, W) of ``size``, or None if there is no PNG.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(
            Problem("unreadable_mask", str(folder), "", f"expected a folder of masks, got {error.strerror}")
        )
        return None
    joined: Mask | None = None
    for name in names:
        path = folder / name
        if not name.endswith(".png"):
            problems.append(Problem("ignored_file", str(path), "", "expected a name that ends in .png"))
            continue
        if joined is None:
            joined = np.zeros(tuple(size), dtype=np.bool_)
        mask = _read_mask(path, size, problems, threshold)
        if mask is not None:
            joined |= mask
    return joined


def _read_mask(path: Path, size: Size, problems: list[Problem], threshold: int | None) -> Mask | None:
    def add(kind: str, detail: str) -> None:
        problems.append(Problem(kind, str(path), "", detail))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(path, ("PNG", "JPEG")) as image:
                found = _upright_size(image, size)
                if found != size:
                    add("wrong_size", f"expected {size.width}x{size.height} pixels, got {found.width}x{found.height}")
                    return None
                mask = None if threshold is not None else turned(mask_of(image, "this file"), orientation_tag(image))
                grey = _grey(image)
    except InputError as error:
        add("ambiguous_mask", str(error))
        return None
    except Exception as error:  # a decoder can raise anything on damaged data
        add("unreadable_mask", f"expected a PNG, got {reason_of(error)}")
        return None
    official: Mask = grey > (OFFICIAL_THRESHOLD if threshold is None else threshold)
    if threshold is not None and not official.any() and grey.any():
        add("faint_mask", f"no value above {threshold}; the largest is {grey.max()}")
    if mask is not None and not np.array_equal(mask, official):
        add(
            "read_differently",
            f"the official scripts find {np.count_nonzero(official)} flawed pixels in it, here "
            f"{np.count_nonzero(mask)}",
        )
    return official if mask is None else mask


def _upright_size(image: Image.Image, wanted: Size) -> Size:
    """The size of the turned image; EXIF, which may need the whole file, is only read if it can matter."""
    stored, turned = Size(image.height, image.width), Size(image.width, image.height)
    if wanted not in (stored, turned):
        return stored
    return turned if image.getexif().get(0x0112, 1) in (5, 6, 7, 8) else stored


def _grey(image: Image.Image) -> NDArray[np.integer]:
    """The values that OpenCV reads as 8-bit grey; integers (H, W) from 0 to 255."""
    if image.format == "JPEG":
        image.draft("L", None)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return np.asarray(upright).astype(np.int64) >> 8
    if upright.mode in ("1", "L", "LA"):
        return np.asarray(upright.getchannel(0) if upright.mode == "LA" else upright.convert("L"))
    colours: NDArray[np.integer] = np.asarray(upright.convert("RGB")) @ _GREY >> 15
    return colours


def unknown_predictions(root: Path, known: Collection[str], *, fine_grained: bool) -> Iterator[Problem]:
    """Predictions without an image (``unknown_image``), and folders of an ``unknown_category``.

    Args:
        root: of the predictions.
        known: ``generator/uid`` of the images.
        fine_grained: whether there is a folder for each category.
    """
    categories = set(map(str, XaigdCategory))
    for generator in _folders(root):
        if not fine_grained:
            yield from _unknown_images(root / generator, generator, known)
            continue
        for category in _folders(root / generator):
            if category in categories:
                yield from _unknown_images(root / generator / category, generator, known)
            else:
                detail = f"expected a category of X-AIGD, got {category!r}"
                yield Problem("unknown_category", str(root / generator / category), "", detail)


def _unknown_images(folder: Path, generator: str, known: Collection[str]) -> Iterator[Problem]:
    for uid in sorted(os.listdir(folder)):
        if f"{generator}/{uid}" not in known:
            yield Problem(
                "unknown_image", str(folder / uid), f"{generator}/{uid}", "the data has no usable image of this name"
            )


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
