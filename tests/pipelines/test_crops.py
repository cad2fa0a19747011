"""Crops: their geometry, their colours, and the pixels that they must not change. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.errors import BadImageError, InputError
from refiner.pipelines import CropInpainter, RefineConfig
from refiner.pipelines.painting.crops import Crop, Pixels, colour_match, crop_box, work_size
from refiner.protocols import InpaintJob
from refiner.types import Size


class Model:
    """Returns noise from each crop's seed, or a fixed answer."""

    def __init__(self, answer: Pixels | None = None) -> None:
        self.batches: list[list[Crop]] = []
        self.answer = answer

    def __call__(self, crops: Sequence[Crop]) -> list[Pixels]:
        self.batches.append(list(crops))
        if self.answer is not None:
            return [self.answer] * len(crops)
        shape = (*crops[0].mask.shape, 3)
        return [np.random.default_rng(crop.seed).random(shape, dtype=np.float32) for crop in crops]


def inpainter(model: Model, **settings: object) -> CropInpainter:
    return CropInpainter(model, native=32, multiple=8, cell=4, config=RefineConfig(**settings))  # type: ignore[arg-type]


def job(size: Size, box: tuple[int, int, int, int], seed: int = 0, strength: float = 0.5) -> InpaintJob:
    pixels = np.random.default_rng(99).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(tuple(size), dtype=np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return InpaintJob(image=Image.fromarray(pixels), mask=mask, prompt="x", seed=seed, strength=strength)


sizes = st.builds(Size, st.integers(16, 200), st.integers(16, 200))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Size, tuple[int, int, int, int]]:
    size = draw(sizes)
    x0, y0 = draw(st.integers(0, size.width - 1)), draw(st.integers(0, size.height - 1))
    return size, (x0, y0, draw(st.integers(x0 + 1, size.width)), draw(st.integers(y0 + 1, size.height)))


@given(boxes(), st.floats(0, 2), st.integers(1, 300))
def test_a_crop_holds_the_flaw_lies_in_the_image_and_is_square_where_it_can_be(
    place: tuple[Size, tuple[int, int, int, int]], padding: float, least: int
) -> None:
    size, (x0, y0, x1, y1) = place
    left, top, right, bottom = crop_box((x0, y0, x1, y1), size, padding=padding, least=least)
    assert 0 <= left <= x0 < x1 <= right <= size.width
    assert 0 <= top <= y0 < y1 <= bottom <= size.height
    width, height = right - left, bottom - top
    assert width == height or min(width, height) == min(size)


@given(boxes())
def test_work_sizes_keep_aspect_and_area(place: tuple[Size, tuple[int, int, int, int]]) -> None:
    (_, (x0, y0, x1, y1)) = place
    height, width = work_size((x0, y0, x1, y1), 512, 8)
    assert height % 8 == width % 8 == 0
    if 1 / 8 <= (x1 - x0) / (y1 - y0) <= 8:
        assert width / height == pytest.approx((x1 - x0) / (y1 - y0), rel=0.06)
        assert height * width == pytest.approx(512**2, rel=0.06)


@given(boxes(), st.floats(0, 0.2))
def test_outside_the_mask_nothing_changes(place: tuple[Size, tuple[int, int, int, int]], feather: float) -> None:
    task = job(*place)
    (result,) = inpainter(Model(), feather=feather).inpaint([task])
    assert result.size == task.image.size
    assert np.array_equal(np.asarray(result)[~task.mask], np.asarray(task.image)[~task.mask])


def test_crops_of_one_strength_and_size_go_through_together() -> None:
    model = Model()
    size = Size(64, 64)
    jobs = [job(size, (8 * n, 8 * n, 8 * n + 6, 8 * n + 6), n, strength=0.5 if n % 2 else 0.9) for n in range(6)]
    together = inpainter(model, batch_size=2).inpaint(jobs)
    assert [[crop.seed for crop in batch] for batch in model.batches] == [[0, 2], [4], [1, 3], [5]]
    for task, picture in zip(jobs, together, strict=True):
        assert picture.tobytes() == inpainter(Model()).inpaint([task])[0].tobytes()


def test_a_prompt_for_the_whole_picture_shows_the_model_all_of_it() -> None:
    model, small = Model(), job(Size(48, 64), (5, 5, 9, 9))
    picture = inpainter(model).inpaint([replace(small, whole=True)])[0]
    (crop,) = model.batches[0]
    assert Size(crop.image.height, crop.image.width) == work_size((0, 0, 64, 48), 32, 8)
    changed = (np.asarray(picture) != np.asarray(small.image)).any(axis=2)
    assert changed.any()
    assert not changed[~small.mask].any()


def test_the_models_mask_covers_whole_latent_cells() -> None:
    model = Model()
    inpainter(model, crop_min_side=1.0).inpaint([job(Size(32, 32), (5, 5, 6, 6))])
    (crop,) = model.batches[0]
    assert crop.image.size == (32, 32)
    assert crop.mask.sum() == 16
    assert crop.mask[4:8, 4:8].all()


@pytest.mark.parametrize(("side", "box"), [(32, (12, 20)), (300, (100, 180)), (700, (401, 402))])
def test_a_colour_shift_of_the_model_is_undone(side: int, box: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(40, 200, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[slice(*box), slice(*box)] = True
    shifted = np.rint(old * 0.9 + [10, -5, 0]).astype(np.uint8)
    slope, shift = colour_match(shifted, old, mask)
    assert np.abs(shifted * slope + shift - old).max() < 1.5
    for nothing in (colour_match(old, old, mask), colour_match(shifted, old, np.ones_like(mask))):
        assert [part.tolist() for part in nothing] == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("answer", [np.zeros((8, 8, 3)), np.full((32, 32, 3), np.nan)])
def test_bad_pictures_are_refused(answer: Pixels) -> None:
    with pytest.raises(BadImageError, match=r"The inpainting model returned (shape|NaN)"):
        inpainter(Model(answer.astype(np.float32))).inpaint([job(Size(64, 64), (8, 8, 12, 12))])


def test_bad_masks_are_refused() -> None:
    task = job(Size(64, 64), (8, 8, 8, 8))
    with pytest.raises(InputError, match="not empty"):
        inpainter(Model()).inpaint([task])
