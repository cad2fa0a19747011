"""X-AIGD's annotations: the same records from every format, and what becomes of broken ones."""

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from refiner.data.problems import Problem, count_problems
from refiner.data.samples import DataSet
from refiner.data.sources import open_data
from refiner.data.xaigd.annotations import XaigdFolder, XaigdImage
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import InputError, MissingExtraError
from refiner.evaluate.harness import collect, describe
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.taxonomy import XaigdCategory
from refiner.types import Analysis, Size

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
    with pytest.raises(InputError, match="download the file again"):
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


def test_a_line_that_is_not_utf_8_costs_one_record(tmp_path):
    file = write(tmp_path, [record("u1"), record("é"), record("u3")]) / "labeled_test.jsonl"
    file.write_bytes(file.read_bytes().replace(b"\\u00e9", b"\xe9"))
    images, problems = read(tmp_path)
    assert [image.name for image in images] == ["gen/u1", "gen/u3"]
    assert [(problem.kind, problem.where) for problem in problems] == [("bad_record", "line 2")]


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
        ("labeled_test.json", b"[\xff]"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="download the file again"):
        read(tmp_path)


def test_missing_folders_and_empty_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        XaigdFolder.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="got none"):
        XaigdFolder.open(tmp_path)


def shade(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (number, 7, 9)).save(buffer, format="PNG")
    return buffer.getvalue()


def published(folder: Path, cells: list, group: int = 4) -> Path:
    """The data set as it is published: pictures inside parquet files, in row groups."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = [record(f"u{number}") | {"image": cell} for number, cell in enumerate(cells)]
    file = folder / "data/labeled_test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
    return folder


def red(data: DataSet, index: int) -> int:
    image = data.load(index).image
    assert image is not None
    return int(np.asarray(image)[0, 0, 0])


@pytest.mark.parametrize("plain", [False, True])
def test_pictures_are_read_from_the_parquet_file(tmp_path, plain):
    cells = [shade(number) for number in range(11)]
    published(tmp_path, cells if plain else [{"bytes": cell, "path": "x.png"} for cell in cells])
    data = open_data(f"xaigd:{tmp_path}")
    assert [red(data, index) for index in range(11)] == list(range(11))
    assert [red(data, index) for index in (9, 2, 3, 3, 0, 10, 4)] == [9, 2, 3, 3, 0, 10, 4]
    assert red(pickle.loads(pickle.dumps(data)), 5) == 5
    sample = data.load(1)
    assert (sample.name, sample.group, sample.fake) == ("gen/u1", "gen", True)
    assert sample.truth is not None
    assert {path.name for path in tmp_path.rglob("*")} == {"data", "labeled_test-00000-of-00001.parquet"}


def test_a_row_without_a_picture_has_a_file_of_its_own(tmp_path):
    published(tmp_path, [{"bytes": shade(0), "path": None}, {"bytes": None, "path": "u1.png"}, None])
    (tmp_path / "images/gen").mkdir(parents=True)
    (tmp_path / "images/gen/u1.png").write_bytes(shade(200))
    data = open_data(f"xaigd:{tmp_path}")
    assert [red(data, index) for index in (0, 1)] == [0, 200]
    with pytest.raises(InputError, match=r"u2\.png.*does not exist"):
        data.load(2)


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(shade(9))
    return root


@pytest.mark.parametrize("place", ["images", ""])
def test_pictures_without_a_record_are_named(tmp_path, place):
    write(tmp_path, [record("u1"), record("u2")])
    write(tmp_path, [record("u3")], "labeled_train.jsonl")
    found = ["gen/u1.png", "gen/u2.JPG", "gen/u3.png", "gen/u4.webp", "other/u1.png", "loose.png"]
    pictures(tmp_path / place, *found, ".hidden/u1.png", "gen/.u1.png")
    (tmp_path / place / "gen/notes.txt").write_text("no picture")
    data = open_data(f"xaigd:{tmp_path}")
    assert data.names == ("gen/u1", "gen/u2")
    assert count_problems(data.problems) == {"missing_record": 3}
    assert [problem.where for problem in data.problems] == ["loose.png", "gen/u4.webp", "other/u1.png"]
    assert all(problem.file == str(tmp_path / place) for problem in data.problems)


def test_pictures_are_looked_for_at_any_depth_where_there_is_nothing_else(tmp_path):
    write(tmp_path, [record("u1")])
    pictures(tmp_path, "images/gen/u1.png", "images/gen/more/u2.png", "predictions/gen/u1/mask.png")
    assert [problem.where for problem in open_data(f"xaigd:{tmp_path}").problems] == ["gen/more/u2.png"]
    (tmp_path / "images").rename(tmp_path / "gen-all")
    assert [problem.where for problem in open_data(f"xaigd:{tmp_path}").problems] == []


def test_other_splits_that_cannot_be_read_do_not_matter(tmp_path):
    write(tmp_path, [record("u1")])
    (tmp_path / "unlabeled_test.parquet").write_bytes(b"PAR1")
    (tmp_path / "labeled_train.json").write_text('[3, {"uid": []}, "x"')
    pictures(tmp_path, "gen/u1.png", "gen/u2.png")
    assert count_problems(open_data(f"xaigd:{tmp_path}").problems) == {"missing_record": 1}


def test_records_and_pictures_that_miss_each_other_are_in_the_table(tmp_path):
    write(tmp_path / "d", [record("u1"), record("u2"), record("u3")])
    pictures(tmp_path / "d/images", "gen/u1.png", "gen/u4.png")
    data = open_data(f"xaigd:{tmp_path / 'd'}")
    system = Looker(detector=ScriptedDetector(lambda _: Analysis(size=Size(20, 30), detector="none")))
    run = collect(data, system, describe("localization", data, {"specification": "x"}, system, {}), tmp_path / "o")
    scored = score(run)
    assert scored.table["errors"] == {"MissingImageError": 2}
    assert [failure.name for failure in scored.failures] == ["gen/u2", "gen/u3"]
    assert scored.table["problems"] == {"missing_record": 1}
    assert "gen/u4.png" in (tmp_path / "o/problems.jsonl").read_text()


def test_bad_pictures_in_parquet_are_named_and_others_go_on(tmp_path):
    small = io.BytesIO()
    Image.new("RGB", (20, 20)).save(small, format="PNG")
    cells = [shade(0), shade(1)[:60], b"no picture", small.getvalue(), shade(4)]
    published(tmp_path, [{"bytes": cell, "path": None} for cell in cells], group=2)
    data = open_data(f"xaigd:{tmp_path}")
    for index in (1, 2):
        with pytest.raises(InputError, match=rf"row {index} of '.*labeled_test.*parquet'"):
            data.load(index)
    with pytest.raises(InputError, match=r"30x20 pixels of 'gen/u3'.*20x20"):
        data.load(3)
    assert [red(data, index) for index in (0, 4)] == [0, 4]


def test_a_parquet_file_that_is_damaged_later_is_named(tmp_path):
    published(tmp_path, [{"bytes": shade(number), "path": None} for number in range(3)])
    data = open_data(f"xaigd:{tmp_path}")
    (tmp_path / "data/labeled_test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"row 1 of .*download the file again"):
        data.load(1)
