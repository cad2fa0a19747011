"""The perturbations under which LEGION reports robustness (its Table 10), each with its own seed.

Noise is Gaussian on [0, 1] and clipped; it depends only on the seed, the image's id and the perturbation, not on the
order of images. Blur is ``cv2.GaussianBlur`` of the float32 image with ``sigmaX=0``, as LEGION's. JPEG is Pillow's
(libjpeg with 4:2:0 chroma). LEGION used kornia's ``RandomJPEG``, a differentiable one that never writes a file; on a
test image the two differ by 1.5 to 2.5 grey levels on average. Results are rounded to 8 bits.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import ConfigError
from refiner.records import derive_seed

Kind = Literal["jpeg", "noise", "blur"]
VERSION = 2
"""Increases when the same input can give other images."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One kind and level of perturbation."""

    kind: Kind
    level: float
    """Quality of JPEG (1 to 95), standard deviation of the noise on [0, 1], or the odd side of the blur kernel."""

    def __post_init__(self) -> None:
        fits = {
            "jpeg": self.level in range(1, 96),
            "noise": 0 <= self.level < math.inf,
            "blur": self.level % 2 == 1 and self.level > 0,
        }
        if not fits.get(self.kind, False):
            raise ConfigError(
                f"Expected jpeg of quality 1 to 95, noise of at least 0 or blur of an odd size, got {self.kind} "
                f"{self.level!r}: change kind or level."
            )

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read ``KIND:LEVEL``, such as ``jpeg:50``, ``noise:0.1`` or ``blur:5``.

        Raises:
            ConfigError: the text is not a perturbation.
        """
        kind, _, level = text.partition(":")
        try:
            return cls(kind=kind, level=float(level))  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigError(
                "Expected a perturbation jpeg:QUALITY (1 to 95), noise:SIGMA (0 or more) or blur:SIZE (odd), got "
                f"{text!r}: name one such as jpeg:50."
            ) from error

    @property
    def name(self) -> str:
        """Such as ``jpeg-50``."""
        return f"{self.kind}-{self.level:g}"

    @property
    def label(self) -> str:
        """As a row of LEGION's Table 10, such as ``JPEG Comp. (QF = 50)``."""
        words = {"jpeg": "JPEG Comp. (QF", "noise": "Gaussian Noise (σ", "blur": "Gaussian Blur (Ksize"}
        return f"{words[self.kind]} = {self.level:g})"

    @property
    def rank(self) -> tuple[int, float]:
        """Its place in LEGION's Table 10: by kind, then from the weakest level to the strongest."""
        return get_args(Kind).index(self.kind), -self.level if self.kind == "jpeg" else self.level

    @property
    def signature(self) -> str:
        """All that the image depends on apart from the seed, and what differs from LEGION's perturbation."""
        how = {
            "jpeg": "libjpeg,4:2:0|legion=kornia RandomJPEG",
            "noise": "gaussian,clip",
            "blur": "float32,sigma=0.3*((k-1)/2-1)+0.8,reflect101",
        }
        return f"perturbation={self.name}|version={VERSION}|{how[self.kind]}"


PERTURBATIONS: Final[dict[str, Perturbation]] = {
    each.name: each
    for each in (
        *(Perturbation(kind="jpeg", level=quality) for quality in (50, 35, 20)),
        *(Perturbation(kind="noise", level=sigma) for sigma in (0.1, 0.2, 0.3)),
        *(Perturbation(kind="blur", level=side) for side in (5, 9, 15)),
    )
}
"""Those of LEGION, by name, in the order of its Table 10."""


def perturb(image: Image.Image, perturbation: Perturbation | str, *, image_id: str, seed: int = 0) -> Image.Image:
    """Perturb an image.

    Args:
        image: RGB.
        perturbation: a perturbation, or a name of ``PERTURBATIONS``.
        image_id: distinguishes images, so that each has its own noise.
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
    rgb = image.convert("RGB")
    if perturbation.kind == "jpeg":
        buffer = io.BytesIO()
        rgb.save(buffer, format="JPEG", quality=int(perturbation.level), subsampling="4:2:0")
        return Image.open(buffer).convert("RGB")
    pixels = np.asarray(rgb)
    if perturbation.kind == "blur":
        return Image.fromarray(_blur(pixels, int(perturbation.level)))
    rng = np.random.default_rng(derive_seed(seed, image_id, perturbation.name))
    noisy = pixels + rng.normal(0.0, 255 * perturbation.level, pixels.shape)
    return Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))


_SMALL_KERNELS: Final[dict[int, tuple[int, ...]]] = {
    1: (256,),
    3: (64, 128, 64),
    5: (16, 64, 96, 64, 16),
    7: (8, 28, 56, 72, 56, 28, 8),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}
"""OpenCV stores these kernels, in 256ths, instead of computing them."""


def gaussian_kernel(side: int) -> NDArray[np.float64]:
    """OpenCV's Gaussian kernel without a given sigma: float64 (side,), sums to 1."""
    if side in _SMALL_KERNELS:
        return np.array(_SMALL_KERNELS[side]) / 256
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    weights = np.exp(-((np.arange(side) - (side - 1) / 2) ** 2) / (2 * sigma**2))
    kernel: NDArray[np.float64] = weights / weights.sum()
    return kernel


def _blur(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Along both axes, rounded once. The image is mirrored at its border, which is not repeated."""
    from scipy import ndimage

    blurred = pixels.astype(np.float64)
    for axis in (0, 1):
        blurred = ndimage.correlate1d(blurred, gaussian_kernel(side), axis=axis, mode="mirror")
    return np.rint(blurred.clip(0, 255)).astype(np.uint8)


def relative_change(clean: float, perturbed: float) -> float | None:
    """Change in per cent of the clean figure; None if that is 0."""
    return 100 * (perturbed - clean) / clean if clean else None
