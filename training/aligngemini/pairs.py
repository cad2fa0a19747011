"""Pairs of a real image and its reconstruction, as the pixel branch is trained on them (DDA's public code).

Whatever is done to a real image is done to its reconstruction with the same random numbers, so that only the traces of
the autoencoder tell them apart. Images are cropped and never resized, except for the copies that are seen shrunk or
enlarged, which are so on both sides.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from refiner.data.samples import DataSet, pairs_of
from refiner.data.writing.reconstruction import compressed, stored_quality
from refiner.errors import InputError
from refiner.training.aligngemini.settings import PixelSettings

Pixels = NDArray[np.uint8]
_RESAMPLES = (
    Image.Resampling.NEAREST, Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC, Image.Resampling.LANCZOS,
)  # fmt: skip
_DOWN, _UP = (0.2, 1.0), (1.0, 3.5)
_NOISE = 55.0  # deviation of the noise, in grey levels
_JITTER, _HUE = 0.4, 0.175


class Pair(NamedTuple):
    """A real image and its reconstruction, of one size."""

    real: Image.Image
    fake: Image.Image
    quality: int | None = None
    """Of the JPEG file that the real image was, from 1 to 100; None if it was none."""


class Pairs(Protocol):
    """Pairs by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Pair:
        """The pair at a place.

        Raises:
            InputError: it cannot be read.
        """
        ...


class DataPairs:
    """The pairs of a data set: samples with equal ``pair``, of which exactly one is real; with the first generated one.

    A pair that cannot be used is told once, and the next one takes its place.

    Args:
        data: the data set.
        tell: shows a sentence.
        without: rows that are held out, with the pairs that they belong to.

    Raises:
        InputError: the data have no pairs.
    """

    def __init__(self, data: DataSet, tell: Callable[[str], None], without: Collection[int] = ()) -> None:
        self.data, self.tell = data, tell
        members: dict[str, list[int]] = {}
        for row, pair in enumerate(pairs_of(data)):
            if pair:
                members.setdefault(pair, []).append(row)
        pairs = (rows for rows in members.values() if len(rows) > 1)
        self.rows = [rows for rows in pairs if not set(rows) & set(without)]
        self.unusable: set[int] = set()
        if not self.rows:
            raise InputError(
                "Expected real images with their reconstructions, got none: make them with refiner data reconstruct "
                "and name the folder with --data reconstructed:FOLDER."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Pair:
        """The pair at a place, or the next one that can be used.

        Raises:
            InputError: no pair can be used.
        """
        for step in range(len(self.rows)):
            row = (place + step) % len(self.rows)
            if row in self.unusable:
                continue
            try:
                return self._read(self.rows[row])
            except InputError as error:
                self.unusable.add(row)
                self.tell(f"Not used: {error}")
        raise InputError(f"Expected pairs of one size, got none that can be used of {len(self.rows)}.")

    def _read(self, rows: Sequence[int]) -> Pair:
        samples = [self.data.load(row) for row in rows]
        real = [sample.image for sample in samples if sample.fake is False and sample.image is not None]
        fake = [sample.image for sample in samples if sample.fake and sample.image is not None]
        if len(real) != 1 or not fake or real[0].size != fake[0].size:
            raise InputError(
                f"The pair {samples[0].pair!r} is not one real and a generated image of one size: leave it out."
            )
        return Pair(real[0], fake[0], stored_quality(real[0]))


def views(pair: Pair, settings: PixelSettings, seed: Sequence[int]) -> tuple[list[Pixels], list[Pixels]]:
    """What is seen of a pair: crops of real and of generated images, uint8 (side, side, 3), in corresponding order.

    One of each, or three with ``settings.resized``. All draws depend only on ``seed``.
    """
    rng = np.random.default_rng(seed)
    fake = _aligned(pair, settings, rng)
    sides = [[pair.real], [fake]]
    if settings.resized:
        ways = rng.choice(len(_RESAMPLES), 2, replace=False)
        for bounds, way in zip((_DOWN, _UP), ways, strict=True):
            factor = float(rng.uniform(*bounds))
            for side in sides:
                side.append(_scaled(side[0], factor, _RESAMPLES[int(way)]))
    key = int(rng.integers(2**62))
    real, generated = ([changed(image, settings.side, key) for image in side] for side in sides)
    return real, generated


def _aligned(pair: Pair, settings: PixelSettings, rng: np.random.Generator) -> Image.Image:
    """The reconstruction after the compression of its original, and mixed with it."""
    fake = pair.fake
    if rng.random() < settings.jpeg and pair.quality is not None:
        fake = compressed(fake, pair.quality)
    shares = [float(rng.uniform(0, settings.most_mixed)) for _ in range(2)]
    chosen = rng.random(2) < settings.mix
    if chosen[0]:
        fake = Image.blend(pair.real, fake, shares[0])
    if chosen[1]:
        # DDA mixes the cosine transforms of whole images here. They are linear, so that this is the same.
        fake = Image.blend(fake, pair.real, shares[1])
    return fake


def _scaled(image: Image.Image, factor: float, way: Image.Resampling) -> Image.Image:
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, way)


def changed(image: Image.Image, side: int, key: int) -> Pixels:
    """Change an image at random and cut a square of ``side`` pixels from it, uint8 (side, side, 3).

    Equal keys give equal changes of images of one size. Kinds and probabilities are those of DDA's public code; blur by
    motion is left out, and saturation and hue are changed in HSV of 8 bits.
    """
    rng = np.random.default_rng(key)
    for probability, change in _CHANGES:
        if rng.random() < probability:
            image = change(image, rng)
    return _cropped(np.asarray(image), side, rng)


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=int(rng.integers(55, 101)))
    with Image.open(buffer, formats=("JPEG",)) as found:
        return found.convert("RGB")


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    return Image.fromarray((pixels + rng.normal(0, _NOISE, pixels.shape)).clip(0, 255).astype(np.uint8))


def _peppered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.array(image)
    count = int(pixels.shape[0] * pixels.shape[1] * rng.uniform(0.01, 0.1))
    pixels[rng.integers(0, pixels.shape[0], count), rng.integers(0, pixels.shape[1], count)] = 0
    return Image.fromarray(pixels)


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    kinds = (ImageFilter.GaussianBlur(0.8), ImageFilter.GaussianBlur(1.1), ImageFilter.MedianFilter(3))
    return image.filter(kinds[int(rng.integers(len(kinds)))])


def _sharpened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.UnsharpMask(radius=3, percent=round(100 * rng.uniform(1, 3)), threshold=0))


def _coloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(rng.uniform(1 - _JITTER, 1 + _JITTER)))
    hue, *others = image.convert("HSV").split()
    turn = round(255 * rng.uniform(-_HUE, _HUE))
    return Image.merge("HSV", (hue.point(lambda value: (value + turn) % 256), *others)).convert("RGB")


_CHANGES: tuple[tuple[float, Callable[[Image.Image, np.random.Generator], Image.Image]], ...] = (
    (0.15, _jpeg),
    (0.5, lambda image, _: ImageOps.mirror(image)),
    (0.5, lambda image, _: ImageOps.flip(image)),
    (0.1, _noisy),
    (0.1, _peppered),
    (0.2, _blurred),
    (0.1, _sharpened),
    (0.2, _coloured),
    (0.1, lambda image, _: ImageOps.grayscale(image).convert("RGB")),
)
"""Probability and change, in this order."""


def _cropped(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A random square; a smaller image is surrounded by black, with half of it before the image."""
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    around = [(each // 2, each - each // 2) for each in missing]
    padded = np.pad(pixels, [*around, (0, 0)])
    top, left = (int(rng.integers(length - side + 1)) for length in padded.shape[:2])
    return padded[top : top + side, left : left + side]


def place_of(number: int, count: int, seed: int) -> int:
    """The place of the pair with a number in the whole training; each epoch has an order of its own."""
    epoch, rank = divmod(number, count)
    return int(_order(count, seed, epoch)[rank])


@lru_cache(2)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 3, epoch]).permutation(count)
