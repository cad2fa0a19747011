"""Destroy the traces that a generator leaves in pixels, so that the semantic branch cannot learn them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from refiner.data.writing.reconstruction import compressed
from refiner.records import derive_seed

_RESAMPLES = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def destroyed(image: Image.Image, name: str, strength: float) -> Image.Image:
    """Blur an image, shrink and enlarge it, and compress it as a JPEG, each in most cases and at least one of them.

    The paper says only that the semantic branch learns from semantic supervision alone; that its training images are
    treated so is known from re-implementations. The strengths are ours.

    Args:
        image: RGB; its size stays.
        name: of the image; the same name gives the same draws.
        strength: the largest deviation of the blur, in pixels; an image is shrunk to at least 1 / (1 + strength) of its
            sides, and its JPEG quality is at least 90 - 25 * strength, but not below 10. 0: the image stays as it is.
    """
    if not strength:
        return image
    rng = np.random.default_rng(derive_seed("cues", name))
    steps = rng.random(3) < 0.7
    if not steps.any():
        steps[int(rng.integers(3))] = True
    found = image
    if steps[0]:
        found = found.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.0)) * strength))
    if steps[1]:
        share = rng.uniform(1 / (1 + strength), 1.0)
        size = (max(1, round(found.width * share)), max(1, round(found.height * share)))
        way = _RESAMPLES[int(rng.integers(len(_RESAMPLES)))]
        found = found.resize(size, way).resize(image.size, way)
    if steps[2]:
        found = compressed(found, round(rng.uniform(max(10.0, 90 - 25 * strength), 90)))
    return found
