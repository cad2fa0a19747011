"""Data sets that are folders: verdicts as ProGAN and UniversalFakeDetect have them, masks as PAL4VST has them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.sources import open_data
from refiner.errors import InputError

PATCH = np.zeros((20, 30), dtype=np.uint8)
PATCH[5:9, 10:20] = 1


def paint(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(root / name)


def mask(path: Path, values: Any = PATCH * 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("name", "group", "fake"),
    [
        ("progan/0_real/1.png", "progan", False),
        ("progan/1_fake/1.png", "progan", True),
        ("progan/cat/1_fake/1.png", "progan", True),
        ("test/stylegan/car/0_real/1.jpg", "stylegan", False),
        ("ldm/val/1_fake/deep/1.png", "ldm", True),
        ("train/airplane/1_fake/1.png", "airplane", True),
        ("1_fake/1.png", "root", True),
        ("train/0_real/1.png", "root", False),
    ],
)
def test_verdict_and_generator_are_in_the_path(tmp_path: Path, name: str, group: str, fake: bool) -> None:
    paint(tmp_path / "root", name)
    data = open_data(f"universalfake:{tmp_path / 'root'}")
    sample = pickle.loads(pickle.dumps(data)).load(0)
    assert (data.names, data.problems) == ((name,), [])
    assert (sample.name, sample.group, sample.fake, sample.truth) == (name, group, fake, None)


def test_pictures_without_a_verdict_are_counted(tmp_path: Path) -> None:
    paint(tmp_path, "progan/0_real/1.png", "progan/1.png", "0_real/a/1_fake/1.png", "progan/2_other/1.png")
    (tmp_path / "progan/0_real/2.png").write_bytes(b"no picture")
    data = open_data(f"universalfake:{tmp_path}")
    assert data.names == ("progan/0_real/1.png", "progan/0_real/2.png")
    assert count_problems(data.problems) == {"unlabelled": 3}
    with pytest.raises(InputError, match=r"2\.png"):
        data.load(1)
    with pytest.raises(InputError, match="is not a folder"):
        open_data(f"universalfake:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("image", "truth", "group"),
    [
        ("images/1.jpg", "masks/1.png", ""),
        ("inpaint/images/1.jpg", "inpaint/labels/1.png", "inpaint"),
        ("images/inpaint/1.jpg", "masks/inpaint/1.png", "inpaint"),
        ("img_dir/test/1.jpg", "ann_dir/test/1.png", ""),
        ("test/faces/imgs/1.webp", "test/faces/gt/1.bmp", "faces"),
        ("faces/1.png", "faces/1_mask.png", "faces"),
        ("1.png", "1_gt.png", ""),
        ("images/1_mask.jpg", "masks/1_mask_mask.png", ""),
        ("img/a/images/1.jpg", "mask/a/masks/1_label.png", "a"),
    ],
)
def test_pictures_find_their_masks(tmp_path: Path, image: str, truth: str, group: str) -> None:
    paint(tmp_path, image)
    mask(tmp_path / truth)
    data = open_data(f"pal4vst:{tmp_path}")
    sample = pickle.loads(pickle.dumps(data)).load(0)
    assert (data.names, data.problems, sample.group) == ((image,), [], group)
    assert (sample.fake, sample.categorised, sample.itemised) == (True, False, False)
    assert sample.truth is not None
    assert np.array_equal(sample.truth.mask, PATCH == 1)


@pytest.mark.parametrize(
    "values", [PATCH, PATCH * 255, np.stack([PATCH * 255] * 3, axis=-1), PATCH * 200, PATCH == 1], ids=str
)
def test_masks_hold_zero_and_one_or_255(tmp_path: Path, values: Any) -> None:
    paint(tmp_path, "images/1.png")
    mask(tmp_path / "masks/1.png", values)
    truth = open_data(f"pal4vst:{tmp_path}").load(0).truth
    assert truth is not None
    assert np.array_equal(truth.mask, PATCH == 1)


def test_masks_with_a_palette_are_read_by_their_numbers(tmp_path: Path) -> None:
    paint(tmp_path, "images/1.png")
    mask(tmp_path / "masks/1.png")
    image = Image.fromarray(PATCH).convert("P")
    image.putdata(PATCH.ravel().tolist())
    image.putpalette([0, 0, 0, 6, 6, 6])
    image.save(tmp_path / "masks/1.png")
    truth = open_data(f"pal4vst:{tmp_path}").load(0).truth
    assert truth is not None
    assert np.array_equal(truth.mask, PATCH == 1)


def test_an_empty_mask_is_a_picture_without_flaws(tmp_path: Path) -> None:
    paint(tmp_path, "images/1.png")
    mask(tmp_path / "masks/1.png", PATCH * 0)
    truth = open_data(f"pal4vst:{tmp_path}").load(0).truth
    assert truth is not None
    assert truth.regions == ()


@pytest.mark.parametrize("values", [PATCH * 90, PATCH + PATCH, PATCH[:, :-1] * 255, PATCH.T * 255], ids=str)
def test_masks_of_other_values_or_sizes_cost_their_sample(tmp_path: Path, values: Any) -> None:
    paint(tmp_path, "images/1.png", "images/2.png")
    mask(tmp_path / "masks/1.png", np.ascontiguousarray(values))
    mask(tmp_path / "masks/2.png")
    data = open_data(f"pal4vst:{tmp_path}")
    with pytest.raises(InputError, match=r"Expected a mask of"):
        data.load(0)
    assert data.load(1).truth is not None


def test_pictures_and_masks_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    paint(tmp_path, "images/1.png", "images/2.png", "images/2.jpg", "images/3.png", "images/5.png")
    for name in ("2.png", "3.png", "3_mask.png", "4.png", "5.png"):
        mask(tmp_path / "masks" / name)
    (tmp_path / "masks/5.png").write_bytes(b"no picture")
    data = open_data(f"pal4vst:{tmp_path}")
    assert data.names == ("images/5.png",)
    assert count_problems(data.problems) == {"duplicate_basename": 2, "missing_mask": 1, "unknown_image": 1}
    with pytest.raises(InputError, match="Cannot read the mask"):
        data.load(0)
    with pytest.raises(InputError, match="is not a folder"):
        open_data(f"pal4vst:{tmp_path / 'nowhere'}")
