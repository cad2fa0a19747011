"""The perturbations under which LEGION reports robustness (its Table 10), each from a seed of its own.

JPEG is Pillow's (libjpeg with 4:2:0 chroma) where LEGION used kornia's differentiable one; noise is Gaussian on [0, 1]
and clipped; blur is ``cv2.GaussianBlur`` with ``sigmaX=0``, bit by bit. Noise depends on the seed, the
image's id and the perturbation alone, never on order.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import ConfigError
from refiner.records import derive_seed

VERSION = 1
"""Grows when equal input may give other pictures."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way and degree of spoiling a picture."""

    kind: Literal["jpeg", "noise", "blur"]
    level: float
    """Quality factor of JPEG (1 to 95); standard deviation of noise on [0, 1]; odd side of the blur's kernel."""

    def __post_init__(self) -> None:
        fits = {
            "jpeg": self.level in range(1, 96),
            "noise": 0 <= self.level < math.inf,
            "blur": self.level % 2 == 1 and self.level > 0,
        }
        if not fits.get(self.kind, False):
            raise ConfigError(
                f"Expected jpeg of quality 1 to 95, noise of at least 0 or blur of an odd size, got {self.kind} "
                f"{self.level!r}: see refiner.metrics.perturbations."
            )

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read ``KIND:LEVEL``, such as ``jpeg:50``, ``noise:0.1`` or ``blur:5``.

        Raises:
            ConfigError: it is something else.
        """
        kind, _, level = text.partition(":")
        known: dict[str, Literal["jpeg", "noise", "blur"]] = {"jpeg": "jpeg", "noise": "noise", "blur": "blur"}
        try:
            return cls(kind=known[kind], level=float(level))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "Expected a perturbation jpeg:QUALITY (1 to 95), noise:SIGMA (0 or more) or blur:SIZE (odd), got "
                f"{text!r}: name one such as jpeg:50."
            ) from error

    @property
    def name(self) -> str:
        """Such as ``jpeg-50``."""
        return f"{self.kind}-{self.level:g}"

    @property
    def signature(self) -> str:
        """What the picture depends on beside the seed."""
        how = {"jpeg": "libjpeg,4:2:0", "noise": "gaussian,clip", "blur": "sigma=0.3*((k-1)/2-1)+0.8,reflect101"}
        return f"perturbation={self.name}|version={VERSION}|{how[self.kind]}"


PERTURBATIONS: Final[dict[str, Perturbation]] = {
    each.name: each
    for each in (
        *(Perturbation(kind="jpeg", level=quality) for quality in (50, 35, 20)),
        *(Perturbation(kind="noise", level=sigma) for sigma in (0.1, 0.2, 0.3)),
        *(Perturbation(kind="blur", level=side) for side in (5, 9, 15)),
    )
}
"""LEGION's, by name."""


def perturb(image: Image.Image, perturbation: Perturbation | str, *, image_id: str, seed: int = 0) -> Image.Image:
    """Spoil a picture.

    Args:
        image: RGB.
        perturbation: one of your own, or the name of one of ``PERTURBATIONS``.
        image_id: tells pictures apart, so that each has its own noise.
        seed: of the run.

    Returns:
        RGB of the same size.

    Raises:
        ConfigError: there is no perturbation of that name.
    """
    if isinstance(perturbation, str):
        if perturbation not in PERTURBATIONS:
            known = ", ".join(PERTURBATIONS)
            raise ConfigError(f"Expected a perturbation of {known}; got {perturbation!r}: name one of these.")
        perturbation = PERTURBATIONS[perturbation]
    picture = image.convert("RGB")
    if perturbation.kind == "jpeg":
        return _jpeg(picture, int(perturbation.level))
    pixels = np.asarray(picture)
    if perturbation.kind == "blur":
        return Image.fromarray(_blur(pixels, int(perturbation.level)))
    rng = np.random.default_rng(derive_seed(seed, image_id, perturbation.name))
    noisy = pixels + rng.normal(0.0, 255 * perturbation.level, pixels.shape)
    return Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(buffer).convert("RGB")


_SMALL_KERNELS: dict[int, tuple[int, ...]] = {
    1: (256,),
    3: (64, 128, 64),
    5: (16, 64, 96, 64, 16),
    7: (8, 28, 56, 72, 56, 28, 8),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}
"""OpenCV has these ready instead of working them out."""


def gaussian_kernel(side: int) -> NDArray[np.int64]:
    """OpenCV's Gaussian kernel for 8-bit pictures where no sigma is given: int (side,), in 256ths, sums to 256.

    Each weight is rounded together with what the one before it lost; the middle takes what is left.
    """
    if side in _SMALL_KERNELS:
        return np.array(_SMALL_KERNELS[side])
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    weights = np.exp(-((np.arange(side) - (side - 1) / 2) ** 2) / (2 * sigma**2))
    weights *= 256 / weights.sum()
    kernel = np.zeros(side, dtype=np.int64)
    lost = 0.0
    for at in range(side // 2):
        kernel[at] = kernel[-1 - at] = round(weights[at] + lost)
        lost += weights[at] - kernel[at]
    kernel[side // 2] = 256 - kernel.sum()
    return kernel


def _blur(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Along both axes in whole numbers, rounded once; the picture is mirrored at its border, which is not repeated."""
    kernel, reach = gaussian_kernel(side), side // 2
    sums = pixels.astype(np.int64)
    for axis in (0, 1):
        length = pixels.shape[axis]
        places = np.arange(-reach, length + reach)
        period = max(1, 2 * length - 2)
        wide = np.take(sums, np.minimum(places % period, -places % period), axis=axis)
        sums = np.zeros_like(sums)
        for at, weight in enumerate(kernel):
            sums += weight * np.take(wide, np.arange(at, at + length), axis=axis)
    return ((sums + (1 << 15)) >> 16).astype(np.uint8)


def relative_change(clean: float, perturbed: float) -> float | None:
    """Change in per cent of the clean figure; None where that is 0."""
    return 100 * (perturbed - clean) / clean if clean else None
