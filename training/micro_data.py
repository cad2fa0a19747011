"""Pictures and captions of the micro world, as training batches drawn on the fly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refiner.micro.world import close_up, render, sample_scene

CLOSE_UPS = 0.15
"""Share of enlarged single things among the training pictures: what inpainting crops look like."""


def draw_picture(rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A random clean picture, RGB 96 x 96, with its caption."""
    scene = sample_scene(rng)
    if len(scene.things) > 1 and rng.random() < CLOSE_UPS:
        return close_up(scene, int(rng.integers(len(scene.things))), rng)
    return render(scene), scene.caption


def draw_batch(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[str]]:
    """``size`` random pictures as uint8 (size, 96, 96, 3), with their captions."""
    pictures, captions = zip(*(draw_picture(rng) for _ in range(size)), strict=True)
    return np.stack([np.asarray(picture) for picture in pictures]), list(captions)


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
