"""Check whether an image is from the micro world. The micro models know no other images and must refuse them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from refiner.errors import OutOfDomainError
from refiner.micro.drawing import INK
from refiner.micro.things import BACKGROUNDS, BROWN, COLOURS, WATER, WHITE
from refiner.micro.world import SIZE

_NEAR = 40.0
"""Largest difference, in grey levels of any channel, at which a pixel counts as having a colour of the palette."""
_FRAME = 2
"""Width, in pixels, of the border that shows only background in every scene."""


_LAWS = {
    "ground": (0.6, 1.0, "its border is not a plain background of that world"),
    "flat": (0.33, 1.0, "it has few flat areas"),
    "palette": (0.62, 1.0, "its colours are not those of that world"),
    "colour": (0.02, 1.0, "it shows no object of that world"),
    "things": (0.05, 0.85, "it shows no object of that world"),
}
"""For each measured value of the micro world's images: least, most, and what the message says if it is outside."""


def _planes(image: Image.Image) -> NDArray[np.float32]:
    """Pixels with the channels first, float32 (3, H, W); a maximum over the channels is then ten times faster."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(image, dtype=np.float32), 2, 0))


def _distances(pixels: NDArray[np.float32], colours: list[tuple[int, int, int]]) -> NDArray[np.float32]:
    """Largest channel difference of each pixel (3, H, W) to each colour, float32 (colours, H, W)."""
    table = np.array(colours, dtype=np.float32)[:, :, None, None]
    return np.stack([np.abs(pixels - colour).max(axis=0) for colour in table])


def measure(image: Image.Image) -> dict[str, float]:
    """Measure what ``check`` compares: shares of pixels in [0, 1], after resizing to 96 x 96.

    Returns:
        ``ground``: border pixels near the background colour that fits the border best. ``flat``: pixels that are
        similar to the adjacent pixels. ``palette``: pixels near any colour of the micro world. ``colour``: pixels near
        a colour of a thing (one object of the micro world). ``things``: pixels that differ from the background.
    """
    small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = _planes(small)
    inner = np.zeros((SIZE, SIZE), dtype=np.bool_)
    inner[_FRAME:-_FRAME, _FRAME:-_FRAME] = True
    grounds = _distances(pixels, list(BACKGROUNDS.values()))
    frame = [float((ground[~inner] < _NEAR / 2).mean()) for ground in grounds]
    best = int(np.argmax([share - ground[~inner].mean() / 255 for share, ground in zip(frame, grounds, strict=True)]))
    smooth = _planes(small.filter(ImageFilter.BoxBlur(1)))
    down, across = (np.abs(np.diff(smooth, axis=axis)).max(axis=0) for axis in (1, 2))
    steps = np.maximum(down[:, 1:], across[1:])
    colours = _distances(pixels, list(COLOURS.values())).min(axis=0)
    others = _distances(pixels, [INK, WHITE, BROWN, WATER]).min(axis=0)
    return {
        "ground": frame[best],
        "flat": float((steps < 10).mean()),
        "palette": float((np.minimum(np.minimum(colours, others), grounds[best]) < _NEAR).mean()),
        "colour": float((colours < _NEAR).mean()),
        "things": float((grounds[best] > _NEAR).mean()),
    }


def check(image: Image.Image) -> None:
    """Refuse an image that is not from the micro world; flawed and blurry images of it are accepted.

    Raises:
        OutOfDomainError: the image is not from the micro world.
    """
    figures = measure(image)
    for name, (least, most, told) in _LAWS.items():
        if not least <= figures[name] <= most:
            raise OutOfDomainError(
                f"The micro models know only small drawings of the micro world, but this {image.width}x{image.height} "
                f"image is not one ({told}): use a full-size model or detector id instead, such as "
                "detector='Qwen/Qwen3-VL-8B-Instruct'."
            )
