"""Predicted masks in X-AIGD's official folder layout, and the sizes at which they are compared with the truth.

``ROOT/{generator}/{uid}/*.png`` holds masks of all categories together, ``ROOT/{generator}/{category}/{uid}/*.png``
those of one category. Pixels above 127 are flawed. The masks of one folder are joined.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from refiner.data.problems import Problem
from refiner.data.raster import centre_crop, resize_nearest
from refiner.taxonomy import XaigdCategory
from refiner.types import Mask, Size

Transform = Literal["keep", "256-224", "518"]
"""The image's own size; 256x256, then the centre 224x224; shortest side 518, then the centre 518x518."""

OFFICIAL_TRANSFORMS: Final[dict[Transform, str]] = {
    "keep": "keep-original-size",
    "256-224": "resize256-crop224",
    "518": "resize518-crop518",
}
"""The names in the official scripts."""


def compared_size(size: Size, transform: Transform) -> Size:
    """The size that a prediction must have for an image of ``size``."""
    sides: dict[Transform, Size] = {"keep": size, "256-224": Size(224, 224), "518": Size(518, 518)}
    return sides[transform]


def transform_truth(mask: Mask, transform: Transform) -> Mask:
    """Resize a bool (H, W) mask of the truth to ``compared_size`` with nearest neighbours."""
    if transform == "keep":
        return mask
    height, width = mask.shape
    if transform == "256-224":
        resized = Size(256, 256)
    else:
        short = min(height, width)
        resized = Size(height * 518 // short, width * 518 // short)
    return centre_crop(resize_nearest(mask, resized), compared_size(resized, transform))


def read_prediction(folder: Path, size: Size, problems: list[Problem]) -> Mask | None:
    """Join the masks of a folder; bool (H, W) of ``size``, or None if there is no PNG.

    A mask that cannot be used (``wrong_size``, ``unreadable_mask``) and a file that is not a PNG (``ignored_file``) are
    added to ``problems`` and left out. A mask without a value above 127 that is not all 0 is added as ``faint_mask``.
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
        mask = _read_mask(path, size, problems)
        if mask is not None:
            joined |= mask
    return joined


def _read_mask(path: Path, size: Size, problems: list[Problem]) -> Mask | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG",)) as image:
                found = Size(image.height, image.width)
                if found != size:
                    detail = f"expected {size.width}x{size.height} pixels, got {found.width}x{found.height}"
                    problems.append(Problem("wrong_size", str(path), "", detail))
                    return None
                grey = _eight_bits(image)
    except Exception as error:  # a decoder can raise anything on damaged data
        problems.append(Problem("unreadable_mask", str(path), "", f"expected a PNG, got {error!r}"))
        return None
    mask: Mask = grey if grey.dtype == np.bool_ else grey > 127
    if not mask.any() and grey.any():
        problems.append(Problem("faint_mask", str(path), "", f"no value above 127; the largest is {grey.max()}"))
    return mask


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Grey values from 0 to 255; bool for an image with one bit per pixel."""
    if image.mode.startswith("I"):
        return np.asarray(image) >> 8
    return np.asarray(image if image.mode in ("1", "L") else image.convert("L"))


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
