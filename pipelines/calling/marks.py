"""Regions that the user marks: masks beside an image, as inpainting calls take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from refiner.errors import ConfigError, InputError
from refiner.mask_images import mask_of
from refiner.masks import box_of
from refiner.protocols import Detector
from refiner.taxonomy import Category
from refiner.types import Analysis, Mask, Region, Size

_INSIDE = 0.5
"""A flaw belongs to the marked regions if at least this share of its pixels is marked."""


class MarkedDetector:
    """A detector of marked regions: each is a flaw until it has been inpainted; other flaws count only inside them.

    So each marked region is inpainted, and the inpainted one is kept unless detector or judge find it worse than a
    flaw of full severity. Then the detector's flaws inside the marked regions are fixed as usual.

    Args:
        inner: finds the flaws.
        masks: the marked regions; white (or True) is marked. They are resized to the size of the images.
    """

    def __init__(self, inner: Detector, masks: Sequence[Image.Image]) -> None:
        self.inner, self.masks = inner, masks
        self._first: np.ndarray[Any, Any] | None = None  # pixels of the first image

    @property
    def name(self) -> str:
        return self.inner.name

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse images of one size; the first image ever is the one that was marked."""
        return [
            self._marked(image, analysis)
            for image, analysis in zip(images, self.inner.batch(images, prompts), strict=True)
        ]

    def _marked(self, image: Image.Image, analysis: Analysis) -> Analysis:
        pixels = np.asarray(image)
        if self._first is None or self._first.shape != pixels.shape:
            self._first = pixels
        marks = [_as_mask(mask, analysis.size) for mask in self.masks]
        same = (pixels == self._first).all(axis=2)
        left = [_region(mark) for mark in marks if mark.any() and same[mark].all()]
        union = np.logical_or.reduce(marks)
        inside = [region for region in analysis.regions if _share(region.pixels(analysis.size), union) >= _INSIDE]
        return replace(analysis, regions=(*left, *inside), heatmap=None)


def masks_of(given: Any) -> list[Image.Image]:
    """Read one mask or several: Pillow images, arrays (H, W) or tensors (H, W) with values in [0, 1] or [0, 255].

    Raises:
        ConfigError: a mask has another type or shape, cannot be read (``refiner.mask_images``), or marks nothing.
    """
    several = given if isinstance(given, list | tuple) else [given]
    if not several:
        raise ConfigError("The list of masks is empty: pass at least one mask_image, or none at all.")
    return [_read(one) for one in several]


def _read(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        mask = _of_image(given)
    else:
        array: np.ndarray[Any, Any] = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
        values = array.squeeze()
        if values.ndim != 2 or values.dtype.kind not in "bfu":
            raise ConfigError(
                f"mask_image must be a Pillow image, an array (H, W) or a tensor (H, W), got {type(given).__name__} of "
                f"shape {tuple(getattr(given, 'shape', ()))}: pass one mask for each region."
            )
        mask = _of_image(Image.fromarray(values)) if values.dtype == np.uint8 else values > 0.5
    if not mask.any():
        raise ConfigError("mask_image marks nothing: paint the region that may change white.")
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _of_image(image: Image.Image) -> Mask:
    try:
        return mask_of(image, "mask_image")
    except InputError as error:
        raise ConfigError(str(error)) from error


def _as_mask(mask: Image.Image, size: Size) -> Mask:
    sides = (size.width, size.height)
    fitting = mask if mask.size == sides else mask.resize(sides, Image.Resampling.NEAREST)
    return np.asarray(fitting) > 127


def _region(mark: Mask) -> Region:
    box = box_of(mark)
    assert box is not None
    # Without a name and an explanation, the prompt of the region is the whole prompt, without additions.
    return Region(mask=mark, box=box, name="", location="marked by the user", category=Category.COMMONSENSE)


def _share(mask: Mask, of: Mask) -> float:
    return int(np.count_nonzero(mask & of)) / max(1, int(np.count_nonzero(mask)))
