"""SynthScars: what is read of its records, and what becomes of those that are broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.raster import fill_polygons
from refiner.data.samples import polygon_rule
from refiner.data.sources import open_data
from refiner.errors import InputError, MissingImageError
from refiner.masks import iou
from refiner.taxonomy import Category
from refiner.types import Size
from tests.support.synthscars_files import flawed_picture, write_synthscars

HAND: dict[str, Any] = {
    "sentence": "The left hand.", "segmentation": [[2.9, 3.1, 12.99999999, 3, 12, 9, 3, 9]], "bbox": None,
    "explanation": "It has six fingers.", "type": "structure",
}  # fmt: skip
TEXT = HAND | {"sentence": "Text on the sign", "segmentation": [[15, 10, 40, 10, 40.2, 30, 15, 30]], "type": "Physics"}
CAPTION = (
    "Upon examining the image. I have found: two flaws.\nTo elaborate, I have found the following artifacts. "
    "The left hand.:It has six fingers. Text on the  sign :It has six fingers."
)
SIZE = Size(20, 30)


def record(image: Any = "1.png", **changes: object) -> dict[str, Any]:
    return {"img_file_name": image, "caption": f'"{CAPTION}"', "refs": [HAND, TEXT]} | changes


def write(split: Path, records: list[Any], *pictures: str) -> Path:
    for part in ("images", "annotations"):
        (split / part).mkdir(parents=True, exist_ok=True)
    (split / "annotations" / f"{split.name}.json").write_text(json.dumps(records))
    for number, name in enumerate(pictures):
        (split / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (number, 7, 9)).save(split / "images" / name)
    return split


def test_a_sample_has_the_caption_its_phrases_and_the_masks_of_legion(tmp_path: Path) -> None:
    records = [{"a": record(content_type="Animal")}, {"b": record("2.png", refs=None)}]
    split = write(tmp_path / "SynthScars/test", records, "1.png", "2.png")
    data = open_data(f"synthscars:{split}")
    assert (data.names, data.problems, polygon_rule(data)) == (("1.png", "2.png"), [], "unclipped")
    sample, clean = data.load(0), pickle.loads(pickle.dumps(data)).load(1)
    assert (sample.fake, sample.group, sample.caption, sample.categorised) == (True, "animal", CAPTION, True)
    assert sample.truth is not None
    hand, text = sample.truth.regions
    assert (hand.name, hand.explanation, hand.category) == ("The left hand.", "It has six fingers.", Category.ANATOMY)
    assert (text.name, text.category) == ("Text on the  sign", Category.OPTICS)
    assert all(region.name in sample.caption for region in sample.truth.regions)
    assert hand.box == (2, 3, 14, 10)  # LEGION rounds to 32-bit floats before it cuts fractions off
    wanted = fill_polygons([np.reshape(TEXT["segmentation"], (-1, 2))], SIZE, clip=False)
    assert np.array_equal(text.mask, wanted)
    assert sample.anomalies is not None
    assert [claim.explanation for claim in sample.anomalies] == ["It has six fingers."] * 2
    assert clean.truth is not None
    assert (clean.truth.regions, clean.anomalies, clean.group, clean.caption) == ((), (), "", CAPTION)


def test_pictures_of_the_micro_world_come_back_from_the_files(tmp_path: Path) -> None:
    data = open_data(f"synthscars:{write_synthscars(tmp_path / 'train', 24, seed=3)}")
    assert data.problems == []
    overlaps = []
    for index in range(24):
        sample, drawn = data.load(index), flawed_picture(3, index)
        assert sample.truth is not None
        assert np.array_equal(np.asarray(sample.image), np.asarray(drawn.image))
        assert sample.group in ("human", "animal", "object", "scene")
        for found, true in zip(sample.truth.regions, drawn.regions, strict=True):
            assert found.mask is not None
            assert true.mask is not None
            assert found.category.legion is true.category.legion
            assert f"{found.name}:{found.explanation}" in sample.caption
            overlaps.append(iou(found.mask, true.mask))
    assert np.mean(overlaps) > 0.9


@pytest.mark.parametrize("key", ["type", "artifact_type", "category", "label", "artifact", "kind", "class"])
@pytest.mark.parametrize(
    ("told", "category"),
    [
        ("physics", Category.OPTICS),
        ("Physical artifact", Category.OPTICS),
        (" STRUCTURE", Category.ANATOMY),
        ("structural", Category.ANATOMY),
        ("distortion", Category.TEXTURE),
        ("Distorted", Category.TEXTURE),
    ],
)
def test_kinds_of_artifacts_are_read_from_any_plausible_key(
    tmp_path: Path, key: str, told: str, category: Category
) -> None:
    ref = {name: value for name, value in HAND.items() if name != "type"} | {key: told}
    sample = open_data(f"synthscars:{write(tmp_path / 'test', [{'a': record(refs=[ref])}], '1.png')}").load(0)
    assert sample.truth is not None
    assert (sample.categorised, sample.truth.regions[0].category) == (True, category)


def test_unknown_kinds_are_counted_and_leave_the_sample_without_categories(tmp_path: Path) -> None:
    silent = {name: value for name, value in TEXT.items() if name != "type"}
    records = [{"a": record(refs=[HAND, HAND | {"type": "odd"}])}, {"b": record("2.png", refs=[silent])}]
    split = write(tmp_path / "test", records, "1.png", "2.png")
    data = open_data(f"synthscars:{split}")
    assert count_problems(data.problems) == {"unknown_kind": 1}
    assert not any(data.load(index).categorised for index in range(2))
    anomalies = data.load(1).anomalies
    assert anomalies is not None
    assert anomalies[0].category is None


def test_quirks_are_kept_and_counted(tmp_path: Path) -> None:
    odd = [
        HAND | {"explanation": "", "segmentation": [[5, 5, 7, 5]]},
        HAND | {"segmentation": None},
        HAND | {"sentence": "the LEFT  hand."},
        HAND | {"sentence": "the right foot"},
        HAND | {"segmentation": [[20, 10, 30 + 1e-12, 10, 30 + 1e-12, 20 + 1e-12]]},
    ]
    records = [
        {"a": record("SynthScars/test/images/1.png", refs=odd)},
        {"b": record(caption=None)},
        {"b": record()},
        {"a": record("1.jpg")},
        {"a": record("SynthScars/test/images/1.png")},
        {"b": record()},
        {"c": record("/data/images/1.png")},
    ]
    data = open_data(f"synthscars:{write(tmp_path / 'test', records, '1.png', '1.jpg', 'deep/3.png')}")
    assert data.names == ("1.png", "1.png#b", "1.jpg", "1.png#c")
    assert count_problems(data.problems) == {
        "duplicate_image": 3, "empty_text": 1, "missing_record": 1, "no_caption": 1, "no_outline": 1,
        "phrase_not_in_caption": 1, "repeated_image": 2, "thin_polygon": 1, "twin_image": 1,
    }  # fmt: skip
    sample = data.load(0)
    assert sample.truth is not None
    assert [region.name for region in sample.truth.regions] == [
        "The left hand.", "The left hand.", "The left hand.", "the right foot", "The left hand."
    ]  # fmt: skip
    hand = (2, 3, 14, 10)
    assert [region.box for region in sample.truth.regions] == [(5, 5, 8, 6), None, hand, hand, (20, 10, 30, 20)]
    assert [region.placed for region in sample.truth.regions] == [True, False, True, True, True]
    assert sample.anomalies is not None
    assert len(sample.anomalies) == 5
    assert [data.load(index).caption for index in (1, 2, 3)] == ["", CAPTION, CAPTION]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("content_types.json", json.dumps({"1.png": "Animals", "2.png": "fish", "9.png": "human"})),
        ("content_types.csv", "image,content_type\n1.png,animal\n2.png,fish\n9.png,scene\n"),
    ],
)
def test_contents_come_from_a_file_beside_the_images(tmp_path: Path, name: str, content: str) -> None:
    split = write(tmp_path / "test", [{"a": record()}, {"b": record("2.png")}, {"c": record()}], "1.png", "2.png")
    (split / name).write_text(content)
    data = open_data(f"synthscars:{split}")
    assert count_problems(data.problems) == {"repeated_image": 1, "unknown_content": 1, "unknown_image": 1}
    assert [data.load(index).group for index in range(3)] == ["animal", "", "animal"]


def test_splits_are_found_and_several_are_not_mixed(tmp_path: Path) -> None:
    train = write(tmp_path / "train", [{"a": record()}], "1.png")
    assert open_data(f"synthscars:{tmp_path}").names == ("1.png",)
    test = write(tmp_path / "test", [{"a": record("2.png")}], "2.png")
    (test / "annotations/test.json").rename(train / "annotations/test.json")
    assert open_data(f"synthscars:{test}").names == ("2.png",)
    assert open_data(f"synthscars:{train}").names == ("1.png",)
    with pytest.raises(InputError, match="test and train: name the folder"):
        open_data(f"synthscars:{tmp_path}")
    (train / "annotations/test.json").unlink()
    with pytest.raises(InputError, match=r"test\.json'.*got none"):
        open_data(f"synthscars:{test}")
    with pytest.raises(InputError, match="is not a folder"):
        open_data(f"synthscars:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no split"):
        open_data(f"synthscars:{tmp_path / 'empty'}")


def test_missing_and_changed_files_cost_a_sample(tmp_path: Path) -> None:
    split = write(tmp_path / "test", [{"a": record()}, {"b": record("2.png")}], "2.png")
    data = open_data(f"synthscars:{split}")
    with pytest.raises(MissingImageError, match=r"1\.png"):
        data.load(0)
    assert data.load(1).name == "2.png"
    write(split, [{"a": record(caption="longer " * 90)}, {"b": record("2.png")}])
    with pytest.raises(InputError, match="do not change the file"):
        data.load(1)
