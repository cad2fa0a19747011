"""FakeXplained: what is read, and what becomes of records that are broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.data.fakexplained import FakexplainedImage, FakexplainedRegion, find_records, read_images, read_record
from refiner.data.problems import Problem, count_problems
from refiner.data.samples import UNNAMED
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError, MissingImageError
from refiner.taxonomy import Category
from refiner.types import Size

LEGS = {"box": [2, 3, 10.5, 8], "description": " three legs "}
FUR = {"box": [0, 0, 30, 20], "description": "metallic fur"}


def record(image: str = "sdxl/1.png", **changes: object) -> dict[str, Any]:
    facts = {"image": image, "label": "fake", "generator": "sdxl", "tags": ["texture"], "regions": [LEGS, FUR]}
    return facts | changes


def write(folder: Path, records: list, name: str = "annotations.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    text = "\n".join(lines) if name.endswith("l") else "[" + ",\n ".join(lines) + "]"
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path) -> tuple[list[FakexplainedImage], list[Problem]]:
    problems: list[Problem] = []
    return list(read_images(find_records(folder), problems)), problems


def paint(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (number, 7, 9)).save(folder / name)
    return folder


@pytest.mark.parametrize("name", ["annotations.jsonl", "annotations.json"])
def test_a_record_holds_boxes_descriptions_tags_and_the_label(tmp_path: Path, name: str) -> None:
    real = {"image": "./photos//2.png", "label": "real", "note": "passed over"}
    images, problems = read(write(tmp_path, [record(width=30, height=20), real, record("é.png", regions=None)], name))
    assert problems == []
    first, second, third = images
    assert (first.name, first.fake, first.generator, first.tags) == ("sdxl/1.png", True, "sdxl", ("texture",))
    assert first.regions[0] == FakexplainedRegion(box=(2, 3, 10.5, 8), description="three legs")
    assert first.regions[1].description == "metallic fur"
    assert (first.size, second.size) == (Size(20, 30), None)
    assert (second.name, second.fake, second.regions, second.tags, second.generator) == (
        "photos/2.png", False, (), (), ""
    )  # fmt: skip
    assert (third.name, third.fake, third.regions) == ("é.png", True, ())
    assert [read_record(image.place) for image in images] == images


@pytest.mark.parametrize("place", ["images", ""])
def test_samples_have_pictures_regions_and_words(tmp_path: Path, place: str) -> None:
    write(tmp_path, [record(), record("nobody/2.png", label="real", regions=[], generator=None)])
    paint(tmp_path / place, "sdxl/1.png", "nobody/2.png")
    data = open_data(f"fakexplained:{tmp_path}")
    assert data.names == ("sdxl/1.png", "nobody/2.png")
    assert data.problems == []
    fake, real = data.load(0), pickle.loads(pickle.dumps(data)).load(1)
    assert (fake.fake, fake.group, real.fake, real.group) == (True, "sdxl", False, "nobody")
    assert fake.truth is not None
    assert [region.box for region in fake.truth.regions] == [(2, 3, 11, 8), (0, 0, 30, 20)]
    assert fake.truth.tags == ("texture",)
    assert fake.anomalies is not None
    assert [(each.explanation, each.reasoning) for each in fake.anomalies] == [("three legs", ""), ("metallic fur", "")]
    assert (fake.categorised, fake.itemised) == (False, True)
    assert real.truth is not None
    assert (real.truth.regions, real.anomalies) == ((), ())
    assert [int(np.asarray(sample.image)[0, 0, 0]) for sample in (fake, real)] == [0, 1]


FULL = LEGS | {"name": "the legs", "reasoning": "A flamingo has two.", "category": "anatomy", "severity": 0.25}


def test_a_region_may_say_more(tmp_path: Path) -> None:
    regions = {"all.png": [FULL, FUR | {"category": "texture"}], "some.png": [FULL, FUR], "none.png": []}
    write(tmp_path, [record(name, regions=found) for name, found in regions.items()])
    data = open_data(f"fakexplained:{paint(tmp_path, *regions)}")
    everything, some, none = map(data.load, range(3))
    assert (everything.categorised, some.categorised, none.categorised) == (True, False, True)
    assert everything.truth is not None
    assert everything.anomalies is not None
    legs, claim = everything.truth.regions[0], everything.anomalies[0]
    for found in (legs, claim):
        assert (found.name, found.explanation, found.reasoning) == ("the legs", "three legs", "A flamingo has two.")
        assert (found.category, found.severity) == (Category.ANATOMY, 0.25)
    fur, words = everything.truth.regions[1], everything.anomalies[1]
    assert (fur.name, fur.severity, words.name, words.severity) == (UNNAMED, 1.0, "", None)


def test_without_any_category_no_image_is_categorised(tmp_path: Path) -> None:
    write(tmp_path, [record("0.png"), record("1.png", label="real", regions=[])])
    data = open_data(f"fakexplained:{paint(tmp_path, '0.png', '1.png')}")
    assert [data.load(at).categorised for at in range(2)] == [False, False]


def test_boxes_are_cut_to_the_picture_and_refused_outside_of_it(tmp_path: Path) -> None:
    boxes = [[-5, -5, 500, 3], [30, 0, 40, 10]]
    write(tmp_path, [record(f"{at}.png", regions=[{"box": box}]) for at, box in enumerate(boxes)])
    data = open_data(f"fakexplained:{paint(tmp_path, '0.png', '1.png')}")
    truth = data.load(0).truth
    assert truth is not None
    assert truth.regions[0].box == (0, 0, 30, 3)
    with pytest.raises(InputError, match=r"boxes inside 30x20 pixels of '1\.png'"):
        data.load(1)


def test_pictures_and_records_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write(tmp_path, [record("0.png", width=20, height=30), record("1.png"), record("2.png")])
    paint(tmp_path / "images", "0.png", "2.png", "deep/er/3.png")
    (tmp_path / "images/2.png").write_bytes(b"no picture")
    data = open_data(f"fakexplained:{tmp_path}")
    assert [(each.kind, each.where) for each in data.problems] == [("missing_record", "deep/er/3.png")]
    with pytest.raises(InputError, match=r"Expected 20x30 pixels of '0\.png'.*got 30x20"):
        data.load(0)
    with pytest.raises(MissingImageError, match=r"1\.png"):
        data.load(1)
    with pytest.raises(InputError, match=r"2\.png"):
        data.load(2)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"image": None}, "bad_record"),
        ({"image": 7}, "bad_record"),
        ({"image": ""}, "bad_record"),
        ({"image": "."}, "bad_record"),
        ({"image": "a/"}, "bad_record"),
        ({"image": "../1.png"}, "bad_record"),
        ({"image": "a/../../1.png"}, "bad_record"),
        ({"image": "/etc/passwd"}, "bad_record"),
        ({"image": "a\\..\\..\\1.png"}, "bad_record"),
        ({"image": "a\0.png"}, "bad_record"),
        ({"image": "\ud800.png"}, "bad_record"),
        ({"label": None}, "bad_record"),
        ({"label": "Fake"}, "bad_record"),
        ({"label": 1}, "bad_record"),
        ({"label": True}, "bad_record"),
        ({"label": ["fake"]}, "bad_record"),
        ({"label": "real"}, "bad_record"),
        ({"generator": ["sdxl"]}, "bad_record"),
        ({"generator": "\udfff"}, "bad_record"),
        ({"tags": "texture"}, "bad_record"),
        ({"tags": [1]}, "bad_record"),
        ({"regions": {"box": [0, 0, 9, 9]}}, "bad_record"),
        ({"regions": "none"}, "bad_record"),
        ({"width": 30}, "bad_record"),
        ({"width": "30", "height": "20"}, "bad_record"),
        ({"width": True, "height": True}, "bad_record"),
        ({"regions": [[0, 0, 9, 9]]}, "bad_region"),
        ({"regions": [LEGS, None]}, "bad_region"),
        ({"regions": [{"description": "no box"}]}, "bad_region"),
        *(
            ({"regions": [{"box": box, "description": "x"}]}, "bad_region")
            for box in (
                None, "0 0 9 9", {"x0": 0}, [0, 0, 9], [0, 0, 9, 9, 9], [0, 0, 9, "9"], [0, 0, 9, None], [[0, 0, 9, 9]],
                [0, 0, 9, True], [0, 0, 9, NAN], [0, -INFINITE, 9, 9], [0, 0, 9, 10**400], [9, 0, 0, 9], [0, 9, 9, 9],
                [0.1, 0.2, 0.6, 0.9],
            )
        ),
        ({"regions": [LEGS | {"description": 7}]}, "bad_region"),
        ({"regions": [LEGS | {"description": ["three", "legs"]}]}, "bad_region"),
        ({"regions": [LEGS | {"description": "\ud83d"}]}, "bad_region"),
        ({"regions": [LEGS | {"box": [0, 0, 2e6, 9]}]}, "bad_region"),
        ({"tags": ["\ud83d"]}, "bad_record"),
        *(
            ({"regions": [LEGS | {key: value}]}, "bad_region")
            for key, values in {
                "name": (7, ["legs"], "\ud83d"),
                "reasoning": (True, {}, "\ud83d"),
                "category": (1, "legs", "low-level-texture", ["texture"]),
                "severity": (-0.1, 1.1, "0.5", True, NAN, INFINITE, [0.5], 10**400),
            }.items()
            for value in values
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["annotations.jsonl", "annotations.json"])
def test_broken_records_are_named_and_the_rest_goes_on(
    tmp_path: Path, changes: dict[str, object], kind: str, name: str
) -> None:
    images, problems = read(write(tmp_path, [record("before"), record("broken") | changes, record("after")], name))
    assert [image.name for image in images] == ["before", "after"]
    assert count_problems(problems) == {kind: 1}
    assert problems[0].file.endswith(name)
    assert ("line 2" if name.endswith("l") else "record 1") in problems[0].where
    assert len(str(problems[0])) < 1000


@pytest.mark.parametrize("line", ["{", "[]", "3", "null", '"text"', "[" * 100_000, "{}", '{"image": "a.png"}'])
def test_lines_that_are_no_records(tmp_path: Path, line: str) -> None:
    images, problems = read(write(tmp_path, [line, "", record()]))
    assert len(images) == 1
    assert count_problems(problems) == {"bad_record": 1}


def test_of_two_records_of_one_picture_the_first_counts(tmp_path: Path) -> None:
    images, problems = read(write(tmp_path, [record(), record("./sdxl/1.png", regions=[]), record("u2")]))
    assert [len(image.regions) for image in images] == [2, 2]
    assert [(problem.kind, problem.where) for problem in problems] == [("duplicate_image", "sdxl/1.png")]


def test_regions_without_words_are_kept_and_counted(tmp_path: Path) -> None:
    images, problems = read(
        write(tmp_path, [record(regions=[LEGS | {"description": " "}, {"box": [0, 0, 9, 9]}, FUR])])
    )
    assert [region.description for region in images[0].regions] == ["", "", "metallic fur"]
    assert [(each.kind, each.where) for each in problems] == [
        ("empty_text", "sdxl/1.png, region 0"), ("empty_text", "sdxl/1.png, region 1")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("annotations.json", b""),
        ("annotations.json", b"{}"),
        ("annotations.json", b"[1, 2"),
        ("annotations.json", b"[1 2]"),
        ("annotations.json", b"[1,]"),
        ("annotations.json", b"[] []"),
        ("annotations.json", b"[\xff]"),
        ("annotations.json", b"[" * 100_000),
        ("annotations.json", b'["' + b"x" * 200_000),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}.*export the file again"):
        read(tmp_path)


def test_missing_folders_and_unclear_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got none"):
        find_records(tmp_path / "nowhere")
    write(tmp_path, [record()])
    write(tmp_path, [record()], "annotations.json")
    with pytest.raises(InputError, match=r"annotations\.jsonl and annotations\.json"):
        find_records(tmp_path)
    (tmp_path / "annotations.json").unlink()
    write(tmp_path, [])
    with pytest.raises(InputError, match="none that can be used"):
        open_data(f"fakexplained:{tmp_path}")
    with pytest.raises(ConfigError, match="no prompts for fakexplained"):
        open_data(f"fakexplained:{tmp_path}", prompts="p.json")


def test_records_that_change_after_they_were_read_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [record(), record("2.png")])
    data = open_data(f"fakexplained:{paint(tmp_path, 'sdxl/1.png', '2.png')}")
    write(tmp_path, [record(tags=["longer than before"]), record("2.png")])
    with pytest.raises(InputError, match="do not change the file"):
        data.load(1)
    (tmp_path / "annotations.jsonl").unlink()
    with pytest.raises(InputError, match="do not change the file"):
        data.load(0)
