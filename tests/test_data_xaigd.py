"""X-AIGD's annotations: the same records from every format, and what becomes of broken ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from refiner.data.problems import Problem, count_problems
from refiner.data.xaigd import XaigdFolder, XaigdImage
from refiner.errors import InputError, MissingExtraError
from refiner.taxonomy import XaigdCategory
from refiner.types import Size

SQUARE = [[2, 3], [10, 3], [10.9, 8.2], [2, 8]]


def record(uid="u1", **changes):
    labels = [
        {"label": "low-level-texture", "points": SQUARE},
        {"label": "cognitive-level-physics", "points": [[0, 0], [4, 0], [0, 4]]},
    ]
    return {"generator": "gen", "uid": uid, "width": 30, "height": 20, "labels": labels} | changes


def write(folder: Path, records, name="labeled_test.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    (folder / name).write_text("\n".join(lines) if name.endswith("l") else "[" + ",".join(lines) + "]")
    return folder


def read(folder, split=None) -> tuple[list[XaigdImage], list[Problem]]:
    problems: list[Problem] = []
    return list(XaigdFolder.open(folder, split).images(problems)), problems


@pytest.mark.parametrize("name", ["labeled_test.jsonl", "labeled_test.json", "labeled_test-00000-of-00001.jsonl"])
@pytest.mark.parametrize("place", ["", "data", "annotations"])
def test_records_are_read_wherever_they_lie(tmp_path, name, place):
    write(tmp_path / place, [record("u1"), record("u2", labels=[]), record("u3", labels=None)], name)
    images, problems = read(tmp_path)
    assert [image.name for image in images] == ["gen/u1", "gen/u2", "gen/u3"]
    assert images[0].size == Size(20, 30)
    assert images[0].categories == {XaigdCategory.TEXTURE, XaigdCategory.PHYSICS}
    assert not problems


def test_parquet_holds_the_same_records(tmp_path):
    rows = [record("u1") | {"image": {"bytes": b"?", "path": None}}, record("u2", labels=[]), record("u3", width=None)]
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "labeled_test-00000-of-00001.parquet")
    images, problems = read(tmp_path)
    same, _ = read(write(tmp_path / "json", rows[1:2] + [record("u1")]))
    assert [image.name for image in images] == ["gen/u1", "gen/u2"]
    assert np.array_equal(images[0].mask(), same[1].mask())
    assert [problem.where for problem in problems] == ["record 2"]
    whole = (tmp_path / "data" / "labeled_test-00000-of-00001.parquet").read_bytes()
    (tmp_path / "data" / "labeled_test-00000-of-00001.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match="fetch it again"):
        read(tmp_path)
    parquet.write_table(pyarrow.table({"uid": ["a"]}), tmp_path / "data" / "labeled_test-00000-of-00001.parquet")
    assert count_problems(read(tmp_path)[1]) == {"bad_record": 1}


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "labeled_test.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="refiner"):
        read(tmp_path)


def test_masks_are_drawn_by_category_and_together(tmp_path):
    image = read(write(tmp_path, [record()]))[0][0]
    texture, physics = image.mask(XaigdCategory.TEXTURE), image.mask(XaigdCategory.PHYSICS)
    wanted = np.zeros((20, 30), dtype=bool)
    wanted[3:9, 2:11] = True
    assert np.array_equal(texture, wanted)
    assert np.array_equal(image.mask(), texture | physics)
    assert physics.sum() == 15
    assert not image.mask(XaigdCategory.COLOR).any()


def test_shards_are_read_in_their_order(tmp_path):
    write(tmp_path, [record("b")], "labeled_test-00001-of-00002.jsonl")
    write(tmp_path, [record("a")], "labeled_test-00000-of-00002.jsonl")
    assert [image.uid for image in read(tmp_path)[0]] == ["a", "b"]


def test_the_split_is_the_named_one_or_the_test_split_or_the_only_one(tmp_path):
    write(tmp_path, [record("train")], "labeled_train.jsonl")
    assert XaigdFolder.open(tmp_path).split == "labeled_train"
    write(tmp_path, [record("test")])
    assert [image.uid for image in read(tmp_path)[0]] == ["test"]
    assert [image.uid for image in read(tmp_path, "labeled_train")[0]] == ["train"]
    with pytest.raises(InputError, match="got labeled_test, labeled_train"):
        XaigdFolder.open(tmp_path, "labelled_test")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"generator": None}, "bad_record"),
        ({"uid": "../../etc"}, "bad_record"),
        ({"uid": ".."}, "bad_record"),
        ({"generator": ""}, "bad_record"),
        ({"generator": "a\0b"}, "bad_record"),
        ({"width": 0}, "bad_record"),
        ({"width": -3}, "bad_record"),
        ({"width": "30"}, "bad_record"),
        ({"height": 20.5}, "bad_record"),
        ({"height": True}, "bad_record"),
        ({"height": 10**9}, "bad_record"),
        ({"labels": "none"}, "bad_record"),
        ({"labels": {"label": "low-level-color"}}, "bad_record"),
        ({"labels": ["low-level-color"]}, "unknown_category"),
        ({"labels": [{"label": "low-level-text", "points": SQUARE}]}, "unknown_category"),
        ({"labels": [{"label": ["low-level-color"], "points": SQUARE}]}, "unknown_category"),
        ({"labels": [{"points": SQUARE}]}, "unknown_category"),
        ({"labels": [{"label": "low-level-color"}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": SQUARE[:2]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": [[1, 2], [3], [4, 5]]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": [[1, 2], [3, "x"], [4, 5]]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": [[1, 2], [3, float("nan")], [4, 5]]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": [[1, 2], [3, float("inf")], [4, 5]]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": [[1, 2], [3, 10**400], [4, 5]]}]}, "bad_polygon"),
        ({"labels": [{"label": "low-level-color", "points": {"x": 1}}]}, "bad_polygon"),
    ],
)
def test_broken_records_are_named_and_the_rest_goes_on(tmp_path, changes, kind):
    write(tmp_path, [record("before"), record("broken") | changes, record("after")])
    images, problems = read(tmp_path)
    assert [image.uid for image in images] == ["before", "after"]
    assert count_problems(problems) == {kind: 1}
    assert problems[0].file.endswith("labeled_test.jsonl")
    assert "line 2" in problems[0].where


@pytest.mark.parametrize("line", ["{", "[]", "3", "null", '"text"', "[" * 100_000])
def test_lines_that_are_no_records(tmp_path, line):
    images, problems = read(write(tmp_path, [line, "", record()]))
    assert len(images) == 1
    assert count_problems(problems) == {"bad_record": 1}


def test_of_two_images_of_one_name_the_first_counts(tmp_path):
    images, problems = read(write(tmp_path, [record(), record(labels=[]), record("u2")]))
    assert [len(image.labels) for image in images] == [2, 2]
    assert [problem.where for problem in problems] == ["gen/u1"]
    assert "gen/u1" in str(problems[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labeled_test.json", b"{}"),
        ("labeled_test.json", b"[1, 2"),
        ("labeled_test.json", b"[" * 100_000),
        ("labeled_test.jsonl", b"\xff\xfe\x00"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="fetch it again"):
        read(tmp_path)


def test_missing_folders_and_empty_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match="which is none"):
        XaigdFolder.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="got none"):
        XaigdFolder.open(tmp_path)
