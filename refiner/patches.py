"""What was painted for the patches of an image, to pick from by hand (``RefinementResult.with_choice``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """All that was painted in one round for one patch: a flawed region, or several that overlap.

    It is kept with ``RefineConfig.keep_candidates``, without the rest of the image.
    """

    name: str
    """Of the patch's first flaw, such as "the left hand"."""
    mask: NDArray[np.bool_]
    """(H, W): the pixels that the candidates change."""
    box: tuple[int, int, int, int]
    """The smallest box around the mask, half-open (x0, y0, x1, y1)."""
    images: tuple[Image.Image, ...]
    """RGB, each of the size of the box."""
    seeds: tuple[int, ...]
    """One for each image."""
    shown: int | None
    """Index of the image that the attempt shows; None: the pixels from before."""

    def paste(self, image: Image.Image, number: int) -> None:
        """Paste one of the images; pixels outside the mask are not changed."""
        x0, y0, x1, y1 = self.box
        image.paste(self.images[number], self.box, mask=Image.fromarray(self.mask[y0:y1, x0:x1]))


def with_candidates(image: Image.Image, offered: Sequence[Candidates], choice: Mapping[int, int]) -> Image.Image:
    """Return a copy of an image with a chosen candidate in some patches.

    Args:
        image: RGB.
        offered: the patches.
        choice: index of a patch -> index of one of its images.

    Raises:
        ConfigError: nothing is chosen; there is no such patch or image; or two chosen patches overlap.
    """
    if not choice:
        raise ConfigError("Expected at least one choice, got none: pass {region: candidate}, such as {0: 1}.")
    picture = image.copy()
    taken = np.zeros((image.height, image.width), dtype=np.bool_)
    for patch, number in choice.items():
        if type(patch) is not int or not 0 <= patch < len(offered):
            raise ConfigError(f"There is no region {patch!r:.40} among the {len(offered)} that have candidates here.")
        images = offered[patch].images
        if type(number) is not int or not 0 <= number < len(images):
            raise ConfigError(
                f"Region {patch} has no candidate {number!r:.40}: choose one from 0 to {len(images) - 1}."
            )
        if (taken & offered[patch].mask).any():
            raise ConfigError(f"Region {patch} overlaps another one of the choice: choose one of them.")
        taken |= offered[patch].mask
        offered[patch].paste(picture, number)
    return picture


def difference(new: Image.Image, old: Image.Image) -> NDArray[np.bool_]:
    """The pixels in which two RGB images of one size differ, bool (H, W)."""
    red, green, blue = np.moveaxis(np.asarray(new) != np.asarray(old), 2, 0)
    return red | green | blue  # takes a tenth of the time of np.any along such a short axis
