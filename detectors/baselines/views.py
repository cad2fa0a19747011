"""How an image becomes the input of a classifier, and how a map of the input becomes one of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from refiner.types import Size


class Statistics(NamedTuple):
    """Mean and standard deviation of a training set, by RGB channel, for values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET: Final = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Final = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True)
class View:
    """What a classifier sees of an image."""

    resize: int | None = None
    """Height and width to which the whole image is resized first, bilinearly with antialias; None: not resized."""
    crop: int | None = None
    """Height and width of the centre that is then cut out; a smaller image gets a black border. None: all of it."""


VIEWS: Final[Mapping[str, View]] = MappingProxyType(
    {
        "whole": View(),
        "crop": View(crop=224),
        "256": View(resize=256),
        "256-224": View(resize=256, crop=224),
    }
)
"""By the name in ids. ``256-224`` is the view at which X-AIGD compares masks of backbones with an input of 224; how it
resizes images is not published."""


class Looked(NamedTuple):
    """The input of a classifier and its place in the image."""

    picture: Image.Image
    """RGB."""
    top: int
    """Row of the resized image at which the input begins; negative where it has a border."""
    left: int
    resized: Size
    image: Size

    def pixels(self, statistics: Statistics) -> Tensor:
        """The normalised input, float32 (3, h, w)."""
        values = torch.from_numpy(np.array(self.picture, dtype=np.float32)) / 255
        return ((values - torch.tensor(statistics.mean)) / torch.tensor(statistics.std)).permute(2, 0, 1)

    def heat(self, values: Tensor) -> NDArray[np.float32]:
        """Bring a map of the input to the image.

        Args:
            values: float (h, w) of any size, at least 0.

        Returns:
            float32 (H, W) in [0, 1], scaled by the largest value, in steps of 1 / 255, so that stored maps are small;
            0 where the classifier saw nothing.
        """
        inside = _resized(values.float().cpu(), Size(self.picture.height, self.picture.width))
        whole = torch.zeros(tuple(self.resized))
        y0, x0 = max(self.top, 0), max(self.left, 0)
        seen = inside[y0 - self.top :, x0 - self.left :][: self.resized.height - y0, : self.resized.width - x0]
        whole[y0 : y0 + seen.shape[0], x0 : x0 + seen.shape[1]] = seen
        heat = _resized(whole, self.image)
        most = float(heat.max())
        scaled = heat / most if most > 0 else heat
        return ((scaled * 255).round() / 255).clamp(0, 1).numpy()


def _resized(values: Tensor, size: Size) -> Tensor:
    if values.shape == tuple(size):
        return values
    return interpolate(values[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]


def look(image: Image.Image, view: View, *, round_down: bool = False) -> Looked:
    """Show an RGB image to a classifier.

    Args:
        image: of any size.
        view: what is seen of it.
        round_down: whether half a pixel of the margin above and to the left is cut off, as by albumentations, or
            rounded to even, as by torchvision.
    """
    size = Size(image.height, image.width)
    if view.resize is not None:
        image = image.resize((view.resize, view.resize), Image.Resampling.BILINEAR)
    resized = Size(image.height, image.width)
    if view.crop is None:
        return Looked(image, 0, 0, resized, size)
    top, left = (_margin(side, view.crop, round_down) for side in resized)
    picture = image.crop((left, top, left + view.crop, top + view.crop))
    return Looked(picture, top, left, resized, size)


def _margin(side: int, crop: int, round_down: bool) -> int:
    if side < crop:
        return -((crop - side) // 2)
    return (side - crop) // 2 if round_down else round((side - crop) / 2)
