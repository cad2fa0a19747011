"""Inpainting of regions as a batch of crops: cut out with context, inpaint at the model's size, paste back seamlessly.

Pixels outside a job's mask are bit-identical.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadImageError, InputError, ModelError
from refiner.images import from_unit
from refiner.masks import box_of, dilate, feather
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.painting.out_of_memory import NoMemoryError, with_memory
from refiner.pipelines.painting.staggering import Shares
from refiner.protocols import Inpainted, InpaintJob
from refiner.types import Box, Calls, Mask, Size

T = TypeVar("T", bound=np.generic)
Pixels = NDArray[np.float32]
"""Float (H, W, 3) in [0, 1]."""
Painted = Pixels | ModelError
"""An inpainted crop, or why there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """The input of the model for one job."""

    image: Image.Image
    """RGB, at the size that the model works at."""
    mask: Mask
    """Bool (H, W), of the image's size; True = inpaint. It covers at least the job's mask."""
    prompt: str
    negative_prompt: str
    seed: int
    strength: float
    texts: Mapping[str, str] = field(default_factory=dict)
    """The prompts of further text encoders, by argument, such as ``prompt_2``."""
    change: NDArray[np.floating] | None = None
    """Float (H, W) in [0, 1]: the share of ``strength`` for each pixel; None: the full strength everywhere."""
    place: tuple[Box, Size] | None = None
    """The box that was cut out, in pixels, and the size of the image it was cut from; None: the whole image."""

    @property
    def peak(self) -> float:
        """The largest share of ``strength`` in the mask."""
        return 1.0 if self.change is None else float((self.change * self.mask).max()) or 1.0

    def shares(self, strength: float, cell: int) -> Shares:
        """Compute the strength of each latent cell (a square of ``cell`` pixels); ``strength`` is the largest."""
        shares = self.mask[::cell, ::cell] * np.float64(strength)
        return shares if self.change is None else shares * (self.change[::cell, ::cell] / self.peak)

    def resized(self, size: tuple[int, int]) -> Crop:
        """Resize the crop to another width and height, in pixels."""

        def nearest(pixels: NDArray[T]) -> NDArray[T]:
            return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))

        change = None if self.change is None else nearest(self.change.astype(np.float32))
        image = self.image.resize(size, Image.Resampling.LANCZOS)
        return replace(self, image=image, mask=nearest(self.mask), change=change)


class _Done(NamedTuple):
    """An inpainted crop, and its denoiser rows."""

    job: InpaintJob
    box: Box
    crop: Crop
    pixels: Painted
    rows: int


CropPainter = Callable[[Sequence[Crop]], Sequence[Painted]]
"""Inpaints crops of one size in one batch; either all crops have a negative prompt or none."""


class CropInpainter:
    """An inpainter over any function that inpaints crops.

    Crops of one size and of similar strength go through the model in one batch. Its rows are independent, so jobs have
    no effect on each other. If memory runs out, the batch size is halved for all later batches too.

    Args:
        paint: inpaints a batch of crops.
        native: side of the square images that the model was trained on, in pixels.
        multiple: heights and widths are multiples of this many pixels; it is a multiple of ``cell``.
        cell: side of a latent cell, in pixels.
        config: settings for crops, feathering and batches.
        mark: puts a watermark on a whole image; only its pixels inside the masks are used. None: no watermark.
        spent: returns the cost of ``paint`` so far; None: nothing is counted.
    """

    def __init__(
        self,
        paint: CropPainter,
        *,
        native: int,
        multiple: int,
        cell: int,
        config: RefineConfig,
        mark: Callable[[Image.Image], Image.Image] | None = None,
        spent: Callable[[], Calls] | None = None,
    ) -> None:
        self._paint, self._mark, self._config, self._spent = paint, mark, config, spent or Calls
        self._native, self._multiple, self._cell = native, multiple, cell
        self._batch = config.batch_size
        self._remarks: list[str] = []

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        """Return the whole image of each job, inpainted inside its mask.

        If only some crops are unusable, the images of their jobs are not changed, and ``remarks`` says why.

        Raises:
            InputError: a mask is empty, or its size is not that of its image.
            BadImageError: no crop is usable, or there is not enough memory for a single crop.
        """
        made = self.inpaint_each([jobs])[0]
        self._remarks += made.remarks
        if made.error is not None:
            raise made.error
        return [*made.images]

    def inpaint_each(self, groups: Sequence[Sequence[InpaintJob]]) -> list[Inpainted]:
        """See ``Grouping``: as ``inpaint`` for several images, whose crops go through the model in the same batches.

        Raises:
            InputError, BadImageError: as ``inpaint``, for what concerns all images.
        """
        jobs = [job for group in groups for job in group]
        boxes = list(map(self._box, jobs))
        crops = list(map(self._crop, jobs, boxes))
        painted: dict[int, Painted] = {}
        rows: dict[int, int] = {}
        for group in self._groups(crops):
            before = self._spent().denoiser_rows
            painted.update(zip(group, self._paint_group([crops[index] for index in group]), strict=True))
            share, left = divmod(self._spent().denoiser_rows - before, len(group))
            rows.update((index, share + (number < left)) for number, index in enumerate(group))
        done = (
            _Done(job, box, crop, painted[index], rows[index])
            for index, (job, box, crop) in enumerate(zip(jobs, boxes, crops, strict=True))
        )
        return [self._inpainted(list(islice(done, len(group)))) for group in groups]

    def _inpainted(self, done: Sequence[_Done]) -> Inpainted:
        """Paste the crops of one image."""
        rows = sum(each.rows for each in done)
        faults = [_fault(each.pixels, each.crop) for each in done]
        said = list(filter(None, faults))
        if said and len(said) == len(done):
            return Inpainted(error=BadImageError(said[0]), rows=rows)
        images = [each.job.image for each in done]
        for place, (each, fault) in enumerate(zip(done, faults, strict=True)):
            if not (fault or isinstance(each.pixels, ModelError) or _same(each.pixels, each.crop)):
                images[place] = self._pasted(each.job, each.box, each.pixels)
        reasons = " ".join(dict.fromkeys(said))
        remarks = [f"{len(said)} of {len(done)} crops are unchanged. {reasons}"] if said else []
        return Inpainted(images=images, remarks=remarks, rows=rows)

    def remarks(self) -> list[str]:
        """Return the notes for the user since the last call, such as a batch size that was too large."""
        said, self._remarks = self._remarks, []
        return said

    def _paint_group(self, crops: Sequence[Crop]) -> list[Painted]:
        """Inpaint crops that may share a batch, as many at a time as fit into memory."""
        painted: list[Painted] = []
        while len(painted) < len(crops):
            batch = crops[len(painted) : len(painted) + self._batch]
            try:
                pictures = with_memory(self._paint, batch)
            except NoMemoryError as error:
                self._halve(batch, str(error))
                continue
            if len(pictures) != len(batch):
                raise BadImageError(
                    f"The inpainting model returned {len(pictures)} images for {len(batch)} crops: check the model."
                )
            painted += pictures
        return painted

    def _halve(self, batch: Sequence[Crop], said: str) -> None:
        width, height = batch[0].image.size
        if len(batch) == 1:
            raise BadImageError(
                f"There is not enough memory for one crop of {width}x{height} pixels ({said}): use a smaller model, "
                "dtype or image size, or enable_model_cpu_offload()."
            )
        self._batch = len(batch) // 2
        remark = f"Memory ran out with a batch of {len(batch)} crops of {width}x{height} pixels: now {self._batch}."
        warnings.warn(remark, RuntimeWarning, stacklevel=2)
        self._remarks.append(remark)

    def _pasted(self, job: InpaintJob, box: Box, painted: Pixels) -> Image.Image:
        feathered, matched = self._config.feather * max(job.image.size), self._config.match_colours
        picture = paste(job, box, painted, feathered, matched=matched)
        marked = self._mark(picture) if self._mark else picture
        return picture if marked is picture else Image.composite(marked, picture, Image.fromarray(job.mask))

    def _box(self, job: InpaintJob) -> Box:
        size = Size(job.image.height, job.image.width)
        flawed = box_of(job.mask)
        if flawed is None or job.mask.shape != tuple(size):
            raise InputError(
                f"Expected a mask of shape {tuple(size)} that is not empty, got shape {job.mask.shape}: mark at least "
                "one pixel of the image."
            )
        if job.whole:
            return 0, 0, size.width, size.height
        least = round(self._config.crop_min_side * self._native)
        return crop_box(flawed, size, padding=self._config.crop_padding, least=least)

    def _crop(self, job: InpaintJob, box: Box) -> Crop:
        size = work_size(box, self._native, self._multiple)
        sides = (size.width, size.height)
        mask = Image.fromarray(job.mask).crop(box).resize(sides, Image.Resampling.NEAREST)
        return Crop(
            image=job.image.crop(box).resize(sides, Image.Resampling.LANCZOS),
            mask=whole_cells(np.asarray(mask), self._cell),
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            texts=job.texts,
            seed=job.seed,
            strength=job.strength,
            change=self._change(job, box, size) if self._config.soft_edge else None,
            place=(box, Size(job.image.height, job.image.width)),
        )

    def _change(self, job: InpaintJob, box: Box, size: Size) -> NDArray[np.float32]:
        """Compute the share of the strength for each pixel of a crop; it is 1 where the mask is deepest."""
        depth = feather(job.mask, self._config.soft_edge * max(job.image.size))
        crop = Image.fromarray(depth).crop(box).resize((size.width, size.height), Image.Resampling.BILINEAR)
        rows, columns = size.height // self._cell, size.width // self._cell
        cells = np.asarray(crop).reshape(rows, self._cell, columns, self._cell).max(axis=(1, 3))
        return (cells / cells.max()).repeat(self._cell, axis=0).repeat(self._cell, axis=1)

    def _groups(self, crops: Sequence[Crop]) -> list[list[int]]:
        """Group the crops that may be rows of one batch."""
        spread, tops = self._config.mixed_strengths, dict[Hashable, dict[float, float]]()
        # Some families treat a missing text differently from an empty one, so the two are not mixed.
        kinds = [(crop.image.size, bool(crop.negative_prompt), tuple(crop.texts)) for crop in crops]
        for strength, kind in sorted(zip((crop.strength for crop in crops), kinds, strict=True), reverse=True):
            known = tops.setdefault(kind, {})
            top = min(known.values(), default=strength)
            known[strength] = top if top - strength <= spread + 1e-9 else strength
        groups: dict[Hashable, list[int]] = {}
        for index, (crop, kind) in enumerate(zip(crops, kinds, strict=True)):
            groups.setdefault((kind, tops[kind][crop.strength]), []).append(index)
        return list(groups.values())


def crop_box(flawed: Box, size: Size, *, padding: float, least: int) -> Box:
    """Compute a square around a box with context on every side, moved into the image; at most as large as the image.

    Args:
        flawed: the box that must lie inside, in pixels.
        size: of the image.
        padding: context on each side, as a share of the box's longer side.
        least: smallest side, in pixels.
    """
    x0, y0, x1, y1 = flawed
    side = max(least, round(max(x1 - x0, y1 - y0) * (1 + 2 * padding)))
    width, height = min(side, size.width), min(side, size.height)
    left = min(max((x0 + x1 - width) // 2, 0), size.width - width)
    top = min(max((y0 + y1 - height) // 2, 0), size.height - height)
    return left, top, left + width, top + height


def work_size(box: Box, native: int, multiple: int) -> Size:
    """Compute the size at which a crop is inpainted: its aspect ratio, the model's native area, multiples of pixels."""
    x0, y0, x1, y1 = box
    scale = native / ((x1 - x0) * (y1 - y0)) ** 0.5
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in (y1 - y0, x1 - x0))
    return Size(height, width)


def whole_cells(mask: Mask, cell: int) -> Mask:
    """Grow a mask (sides multiples of ``cell``) to whole latent cells; the model might drop partly masked cells."""
    height, width = mask.shape
    cells = mask.reshape(height // cell, cell, width // cell, cell).any(axis=(1, 3))
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)


def _fault(picture: Painted, crop: Crop) -> str | None:
    """Say why an inpainted crop is unusable, as a sentence; None if it is usable."""
    if isinstance(picture, ModelError):
        return str(picture)
    wanted = (*crop.mask.shape, 3)
    shape = getattr(picture, "shape", None)
    if shape != wanted:
        return f"The inpainting model returned shape {shape or picture!r:.80} instead of {wanted}: check the model."
    if not np.isfinite(picture).all():
        return "The inpainting model returned NaN pixels: use another dtype for its autoencoder."
    if not picture.any() and np.asarray(crop.image).any():
        return "The inpainted image is black, because the safety checker blocked it: use another seed or prompt."
    return None


def _same(picture: Pixels, crop: Crop) -> bool:
    """Whether the model returned the crop unchanged, so that not even resizing may change the image."""
    return np.array_equal(np.asarray(from_unit(picture)), np.asarray(crop.image))


def paste(job: InpaintJob, box: Box, painted: Pixels, feather_pixels: float, *, matched: bool = True) -> Image.Image:
    """Paste an inpainted crop into the job's image, blended inside the mask; ``matched``: colours fit those around it.

    Without blending and matching, this is equation 6 of LEGION: the old pixels outside the mask, the new ones inside.
    """
    x0, y0, x1, y1 = box
    whole = np.array(job.image)
    old = whole[y0:y1, x0:x1]
    mask = job.mask[y0:y1, x0:x1]
    new = np.asarray(from_unit(painted).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS))
    slope, shift = colour_match(new, old, mask) if matched else (np.ones(3), np.zeros(3))
    if (flawed := box_of(mask)) is not None:
        left, top, right, bottom = flawed
        inner = slice(top, bottom), slice(left, right)
        weight = feather(job.mask, feather_pixels)[y0:y1, x0:x1][inner][..., None]
        blend = new[inner] * slope
        blend += shift
        np.clip(blend, 0, 255, out=blend)
        blend *= weight
        blend += old[inner] * (1 - weight)
        old[inner] = np.rint(blend, out=blend)
    return Image.fromarray(whole)


_SAMPLED_SIDE = 128


def colour_match(new: NDArray[np.uint8], old: NDArray[np.uint8], mask: Mask) -> tuple[NDArray[Any], NDArray[Any]]:
    """Compute a slope and a shift, float (3,) each, that undo the model's colour shift in the channels of ``new``.

    They bring mean and standard deviation of each channel around the mask to those of ``old``. Both images are uint8
    (H, W, 3) and show the same content there. The shift is measured on a ring whose width is a quarter of the image's
    longer side; large images are subsampled. A channel that this would not bring closer to ``old`` is not changed.
    """
    step = -(-max(mask.shape) // _SAMPLED_SIDE)
    starts = [range(0, side, step) for side in mask.shape]
    coarse = np.logical_or.reduceat(np.logical_or.reduceat(mask, starts[0], axis=0), starts[1], axis=1)
    around = dilate(coarse, max(coarse.shape) / 4) & ~mask[::step, ::step]
    new, old = new[::step, ::step], old[::step, ::step]
    if not around.any():
        return np.ones(3), np.zeros(3)
    seen, wanted = new[around].astype(np.float64), old[around].astype(np.float64)
    spread = seen.std(axis=0)
    slope = np.where(spread > 1, wanted.std(axis=0) / np.maximum(spread, 1), 1).clip(0.8, 1.25)
    shift = wanted.mean(axis=0) - seen.mean(axis=0) * slope
    closer = ((seen * slope + shift - wanted) ** 2).mean(axis=0) < ((seen - wanted) ** 2).mean(axis=0)
    return np.where(closer, slope, 1), np.where(closer, shift, 0)
