"""Reconstructions of real images by an autoencoder: what the pixel branch of AlignGemini learns from.

A reconstruction shows the same as its original; only the traces of the autoencoder differ. So a network that tells them
apart learns nothing else ("Dual Data Alignment", Chen et al., NeurIPS 2025). Original and reconstruction go to
``0_real`` and ``1_fake`` under the same name, as PNG files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refiner.data.anomreason import FAKE, REAL
from refiner.data.folders import find_images
from refiner.data.problems import Problem
from refiner.data.writing.resuming import open_target
from refiner.errors import ConfigError, InputError, ModelError, WeightsError
from refiner.files import atomic_write
from refiner.hub import locate
from refiner.images import kept_from, load_image, open_image, png_bytes
from refiner.records import derive_seed
from refiner.repository import Repository

QUALITY: Final = "refiner:jpeg-quality"
"""Text chunk of an original: the quality, from 1 to 100, of the JPEG file that it was."""
RECORD: Final = "reconstruction.json"
"""File in the folder that says how the reconstructions were made; a run is resumed only with the same settings."""
_WAITING: Final = 8
"""Images that wait for others of their size: at most so many batches."""
_FILES: Final = ("vae/*", "config.json", "diffusion_pytorch_model*.safetensors")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How reconstructions are made.

    Raises:
        ConfigError: the batch is below 1.
    """

    vae: str
    """Id of the autoencoder."""
    seed: int = 0
    batch: int = 8  # images of one size that are decoded together
    jpeg: bool = False  # whether the reconstruction of a JPEG file is compressed with the quality of this file

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"Expected a batch of at least 1 image, got {self.batch}: choose a larger number.")


class Reconstructed(NamedTuple):
    """What a run did."""

    made: int
    """Pairs that this run made."""
    kept: int
    """Pairs that were there before."""
    left_out: int
    """Images that could not be used."""


class Original(NamedTuple):
    """An image that is to be reconstructed."""

    name: str
    """Path of the PNG file in both folders."""
    pixels: Pixels
    """(H, W, 3), cropped to multiples of what the autoencoder needs."""
    quality: int | None
    """Of the JPEG file that it is from; None for other files."""

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the pixels."""
        return self.pixels.shape


class Autoencoder:
    """An ``AutoencoderKL`` of diffusers that reconstructs images.

    Latents are sampled, not the mean of their distribution, with a generator for each image: batches change nothing.

    Args:
        vae: the network, on its device.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.multiple: int = 2 ** (len(vae.config.block_out_channels) - 1)

    @classmethod
    def from_pretrained(cls, vae: str | Path, device: str | torch.device) -> Autoencoder:
        """Load the autoencoder of a pipeline, or one alone: float16 on a GPU, else float32.

        Args:
            vae: ``micro``, a folder, or a hub id of a pipeline with a folder ``vae``, or of an autoencoder.
            device: where it computes.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: it has no ``AutoencoderKL``, or is damaged.
        """
        from diffusers import AutoencoderKL

        found = locate(vae, "generator")
        root = found.folder(_FILES) if isinstance(found, Repository) else found
        folder = root / "vae" if (root / "vae").is_dir() else root
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
            if kind != "AutoencoderKL":
                raise ValueError(f"it is of the class {kind!r}, not AutoencoderKL")
            network = AutoencoderKL.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False)
        except Exception as error:  # damaged files may raise anything
            first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise WeightsError(
                f"The autoencoder {str(vae)!r} cannot be loaded ({first:.200}): name a pipeline with an AutoencoderKL."
            ) from error
        return cls(network.to(device))

    def __call__(self, pictures: Sequence[Pixels], seeds: Sequence[int]) -> list[Pixels]:
        """Reconstruct images of one size, uint8 (H, W, 3) each, with a seed for each.

        If the memory does not suffice, the batch is halved. If float16 gives no finite numbers, float32 is used.

        Raises:
            ModelError: the memory does not suffice for one image, or float32 gives no finite numbers either.
        """
        try:
            return self._computed(pictures, seeds)
        except torch.OutOfMemoryError as error:
            half = len(pictures) // 2
            if not half:
                height, width, _ = pictures[0].shape
                raise ModelError(
                    f"The memory does not suffice for an image of {width}x{height} pixels: leave it out."
                ) from error
        return self(pictures[:half], seeds[:half]) + self(pictures[half:], seeds[half:])

    def _computed(self, pictures: Sequence[Pixels], seeds: Sequence[int]) -> list[Pixels]:
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded = self._passed(pixels, seeds)
        if not bool(decoded.isfinite().all()) and self.vae.dtype != torch.float32:
            dtype = self.vae.dtype
            self.vae.float()
            decoded = self._passed(pixels, seeds)
            self.vae.to(dtype)
        if not bool(decoded.isfinite().all()):
            raise ModelError("The autoencoder does not give finite numbers: check its weights.")
        values = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return list(values)

    @torch.inference_mode()
    def _passed(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        latents = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        noise = [torch.randn(latents.mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        drawn = latents.mean + latents.std * torch.stack(noise).to(latents.mean)
        decoded: Tensor = self.vae.decode(drawn).sample.float()
        return decoded


def reconstruct(
    images: Path,
    out: Path,
    settings: ReconstructionSettings,
    autoencoder: Autoencoder,
    problems: list[Problem],
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Reconstructed:
    """Reconstruct all images of a folder, at any depth. Pairs that are there already are kept.

    Images are never resized; they are cropped around their centre to multiples of what the autoencoder needs.

    Args:
        images: the folder.
        out: where ``0_real`` and ``1_fake`` are written.
        settings: how.
        autoencoder: the one that ``settings.vae`` names.
        problems: gets the images that cannot be used: ``unreadable_image``, ``duplicate_basename`` (another image has
            the same name but for the suffix; the first counts) and ``failed`` (the autoencoder failed).
        track: yields the names and shows the progress.

    Raises:
        InputError: there is no such folder, or no image in it.
        ConfigError: ``out`` holds reconstructions with other settings.
        OutputError: ``out`` holds other files, or a file cannot be written.
    """
    if not images.is_dir():
        raise InputError(f"Expected a folder of images, but {str(images)!r} is not a folder: check the path.")
    names = list(find_images(images, deep=True))
    if not names:
        raise InputError(f"Expected images in {str(images)!r}, got none: add some.")
    open_target(out, RECORD, {"vae": settings.vae, "seed": settings.seed, "jpeg": settings.jpeg})
    before, kept, made = len(problems), 0, 0
    waiting: dict[tuple[int, ...], list[Original]] = {}
    seen: set[str] = set()
    for name in track(names):
        target = PurePosixPath(name).with_suffix(".png").as_posix()
        if target in seen:
            problems.append(Problem("duplicate_basename", str(images), name, "another image has its name; left out"))
        elif all((out / label / target).is_file() for label in (REAL, FAKE)):
            kept += 1
        elif (found := _read(images / name, target, autoencoder.multiple, problems)) is not None:
            waiting.setdefault(found.size, []).append(found)
            for batch in _ready(waiting, settings.batch):
                made += _write(batch, out, settings, autoencoder, problems)
        seen.add(target)
    for group in waiting.values():
        made += _write(group, out, settings, autoencoder, problems)
    return Reconstructed(made, kept, len(problems) - before)


def _read(path: Path, target: str, multiple: int, problems: list[Problem]) -> Original | None:
    try:
        image = load_image(path)
        quality = jpeg_quality(path)
    except InputError as error:
        problems.append(Problem("unreadable_image", str(path.parent), path.name, str(error)))
        return None
    height, width = (side - side % multiple for side in (image.height, image.width))
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return Original(target, np.asarray(image)[top : top + height, left : left + width], quality)


def _ready(waiting: dict[tuple[int, ...], list[Original]], batch: int) -> Iterator[list[Original]]:
    """Take full batches, and the largest group if too many images wait."""
    for size, group in list(waiting.items()):
        if len(group) >= batch:
            yield waiting.pop(size)
    if sum(map(len, waiting.values())) > _WAITING * batch:
        yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))


def _write(
    batch: Sequence[Original],
    out: Path,
    settings: ReconstructionSettings,
    autoencoder: Autoencoder,
    problems: list[Problem],
) -> int:
    seeds = [derive_seed("reconstruction", settings.seed, each.name) for each in batch]
    try:
        found = autoencoder([each.pixels for each in batch], seeds)
    except ModelError as error:
        problems += [Problem("failed", str(out), each.name, str(error)) for each in batch]
        return 0
    for original, pixels in zip(batch, found, strict=True):
        picture, quality = Image.fromarray(pixels), original.quality
        if settings.jpeg and quality is not None:
            picture, quality = compressed(picture, quality), None
        text = {} if quality is None else {QUALITY: str(quality)}
        for label, image, words in ((FAKE, picture, {}), (REAL, Image.fromarray(original.pixels), text)):
            target = out / label / original.name
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, png_bytes(image, words))
    return len(batch)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """An image after compression as a JPEG of a quality from 1 to 100, with chroma at half the resolution."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer, formats=("JPEG",)) as found:
        return found.convert("RGB")


def jpeg_quality(path: Path) -> int | None:
    """The quality of a JPEG file whose table of luminance is nearest to the file's; None for other files.

    The scale is that of the Independent JPEG Group, which Pillow and most programs use.
    """
    with open_image(path) as image:
        tables = getattr(image, "quantization", None) if image.format == "JPEG" else None
        if not tables:
            return None
        table = np.asarray(tables[0], dtype=np.int64)
    return min(range(1, 101), key=lambda quality: int(np.abs(_table(quality) - table).sum()))


@cache
def _table(quality: int) -> NDArray[np.int64]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format="JPEG", quality=quality)
    found: Any = Image.open(buffer)
    return np.asarray(found.quantization[0], dtype=np.int64)


def stored_quality(image: Image.Image) -> int | None:
    """The quality that the PNG file of an original says; None if it says none. ``load_image`` has read the image."""
    text = kept_from(image).texts.get(QUALITY, "")
    return int(text) if text.isdecimal() and 1 <= int(text) <= 100 else None
