"""Random images and captions of the micro world for training. A thing is one object of the micro world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refiner.micro.flaws import FlawedPicture, inject
from refiner.micro.world import SIZE, Scene, Thing, close_up, render, sample_scene
from refiner.types import Mask

CLOSE_UPS = 0.45  # Share of close-ups among the images of one thing. They look like the crops of an inpainter.
EVENLY = (0.25, 0.25, 0.25, 0.25)  # probabilities of one, two, three and four things in an image
MOSTLY_ONE = (0.76, 0.08, 0.08, 0.08)
"""The same for the generator. As a result, like large models, it draws small details worse in images of many things."""
HARDEST = ("clock", "sign")  # the kinds whose details (hands, letters) a generator learns last
_AT_ONCE = 8  # images in one batch of the autoencoder


def draw_picture(
    rng: np.random.Generator, practice: float = 0.0, things: Sequence[float] = EVENLY
) -> tuple[Image.Image, str]:
    """A random image without flaws, RGB 96 x 96, with its caption.

    With probability ``practice`` the image must show one of the ``HARDEST``. ``things`` holds the probabilities of one,
    two, three and four things.
    """
    scene = draw_scene(rng, practice, things)
    if len(scene.things) == 1 and rng.random() < CLOSE_UPS:
        return close_up(scene, 0, rng)
    return render(scene), scene.caption


def draw_scene(rng: np.random.Generator, practice: float, things: Sequence[float] = EVENLY) -> Scene:
    """A random scene. Arguments as for ``draw_picture``."""
    scene, practised = _scene(rng, things), rng.random() < practice
    while practised and all(thing.kind not in HARDEST for thing in scene.things):
        scene = _scene(rng, things)
    return scene


def _scene(rng: np.random.Generator, things: Sequence[float]) -> Scene:
    return sample_scene(rng, 1 + int(rng.choice(len(things), p=things)))


def draw_batch(
    rng: np.random.Generator, size: int, practice: float = 0.0, things: Sequence[float] = EVENLY
) -> tuple[NDArray[np.uint8], list[str]]:
    """``size`` images of ``draw_picture`` as uint8 (size, 96, 96, 3), with their captions."""
    pictures, captions = zip(*(draw_picture(rng, practice, things) for _ in range(size)), strict=True)
    return np.stack([np.asarray(picture) for picture in pictures]), list(captions)


def draw_injected(rng: np.random.Generator, clean_share: float) -> FlawedPicture:
    """A random image. It is clean with probability ``clean_share``, else it has a flaw on each of 1 to all things."""
    scene = sample_scene(rng)
    count = 0 if rng.random() < clean_share else int(rng.integers(1, len(scene.things) + 1))
    return inject(scene, rng, count=count)


def disc_on(thing: Thing, rng: np.random.Generator, radii: tuple[float, float]) -> Mask:
    """A random disc on a thing, bool (96, 96), with a radius in pixels between ``radii``."""
    x, y = np.clip(np.array([thing.x, thing.y]) + rng.uniform(-1, 1, 2) * thing.radius, 0, SIZE - 1)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    disc: Mask = np.hypot(rows - y, columns - x) < rng.uniform(*radii)
    return disc


def other(rng: np.random.Generator, names: Iterable[str], *used: str) -> str:
    """A random one of ``names`` that is not in ``used``."""
    left = [name for name in names if name not in used]
    return left[int(rng.integers(len(left)))]


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(values: Tensor) -> NDArray[np.uint8]:
    """The inverse of ``to_tensor``. Values outside of [-1, 1] are clipped."""
    pixels: NDArray[np.uint8] = ((values.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


@torch.no_grad()
def round_trip(autoencoder: AutoencoderKL, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode images, uint8 (N, 96, 96, 3), and decode them again."""
    chunks = (to_tensor(pictures[start : start + _AT_ONCE]) for start in range(0, len(pictures), _AT_ONCE))
    return np.concatenate(
        [to_pixels(autoencoder.decode(autoencoder.encode(chunk).latent_dist.mean).sample) for chunk in chunks]
    )
