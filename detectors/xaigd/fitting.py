"""Bring images and masks to the network's input, and maps back to the image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors.xaigd.config import XaigdConfig
from refiner.types import Box, Mask, Size

Floats = NDArray[np.float32]


class Fit(NamedTuple):
    """How an image of ``size`` becomes the network's input: scaled, then cut."""

    size: Size
    scaled: Size
    top: int  # rows and columns of the scaled image before the cut
    left: int
    side: int  # of the input

    @property
    def window(self) -> Box:
        """The part of the image that the network sees, in whole pixels of the image."""
        down, right = self.size.height / self.scaled.height, self.size.width / self.scaled.width
        x0, y0 = round(self.left * right), round(self.top * down)
        x1, y1 = round((self.left + self.side) * right), round((self.top + self.side) * down)
        return x0, y0, max(x0 + 1, min(x1, self.size.width)), max(y0 + 1, min(y1, self.size.height))


def fit_of(config: XaigdConfig, size: Size) -> Fit:
    """How an image of ``size`` (height, width) is brought to the input; see ``XaigdConfig.fit``."""
    side = config.image_size
    if config.fit == "whole":
        return Fit(size, Size(side, side), 0, 0, side)
    short = config.short_side or side
    factor = short / min(size)
    height, width = (short if length == min(size) else int(length * factor) for length in size)
    return Fit(size, Size(height, width), (height - side) // 2, (width - side) // 2, side)


def pixels_of(image: Image.Image, config: XaigdConfig) -> Floats:
    """The network's input of an RGB image: normalised, float32 (3, side, side). Images are scaled bicubically."""
    fit = fit_of(config, Size(image.height, image.width))
    scaled = (
        image
        if fit.scaled == fit.size
        else image.resize((fit.scaled.width, fit.scaled.height), Image.Resampling.BICUBIC)
    )
    cut = scaled.crop((fit.left, fit.top, fit.left + fit.side, fit.top + fit.side))
    mean, std = np.asarray(config.mean, dtype=np.float32), np.asarray(config.std, dtype=np.float32)
    values = (np.asarray(cut, dtype=np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def mask_of(mask: Mask, config: XaigdConfig) -> Floats:
    """A bool (H, W) mask at the network's input: the flawed share of each pixel, float32 (side, side) in [0, 1]."""
    fit = fit_of(config, Size(*mask.shape))
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    if fit.scaled != fit.size:
        picture = picture.resize((fit.scaled.width, fit.scaled.height), Image.Resampling.BOX)
    cut = picture.crop((fit.left, fit.top, fit.left + fit.side, fit.top + fit.side))
    shares: Floats = np.asarray(cut, dtype=np.float32) / np.float32(255)
    return shares


def placed(maps: Floats, config: XaigdConfig, size: Size) -> Floats:
    """Maps of the network's input at an image: float32 (N, h, w) -> (N, H, W), bilinear; 0 outside the window."""
    import torch
    from torch.nn import functional

    x0, y0, x1, y1 = fit_of(config, size).window
    inner = functional.interpolate(
        torch.from_numpy(maps)[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False
    )[0]
    whole = np.zeros((len(maps), *size), dtype=np.float32)
    whole[:, y0:y1, x0:x1] = inner.clamp(0, 1).numpy()
    return whole
