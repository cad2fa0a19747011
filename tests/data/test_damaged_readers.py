"""Damaged data sets: each reader names what it cannot use in one sentence, counts it, and reads the rest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample
from refiner.data.sources import open_data
from refiner.errors import InputError
from tests.support.tfrecords import write_records

NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
REF: dict[str, Any] = {
    "sentence": "The left hand", "segmentation": [[2, 3, 12, 3, 12, 9]], "bbox": None, "explanation": "Six fingers.",
    "type": "structure",
}  # fmt: skip
ODD = (None, 3, True, ["a"], {"a": "b"}, "\ud83d")
REGION: dict[str, Any] = {"region": [2, 3, 10, 5], "problem": "six toes"}


def synthscars(name: Any) -> dict[str, Any]:
    return {"key": {"img_file_name": name, "caption": "I see. The left hand:Six fingers.", "refs": [REF, REF]}}


def loki(name: Any) -> dict[str, Any]:
    return {"image_path": name, "problems": {"global": ["flat light"], "regional": [REGION, REGION]}}


def fakexplained(name: Any) -> dict[str, Any]:
    answer = "<think><ref-object><bbox><ref-object><bbox><tag>flat light</tag></think><verdict>generated</verdict>"
    messages = [{"role": "user", "content": "<image>Real?"}, {"role": "assistant", "content": answer}]
    boxes = {"ref": ["six toes", "six fingers"], "bbox": [[2, 3, 12, 8], [1.5, 0, 9, 9]]}
    return {"messages": messages, "images": [name], "objects": boxes}


def richhf(name: Any) -> dict[str, Any]:
    return {"filename": name, "overall_score": 0.5}


RECORD: dict[str, Callable[[Any], Any]] = {"synthscars": synthscars, "loki": loki, "fakexplained": fakexplained}
FILE = {
    "synthscars": "test/annotations/test.json",
    "loki": "test/loki.json",
    "fakexplained": "test/annotations.json",
}
each_reader = pytest.mark.parametrize("reader", list(RECORD))


def write(root: Path, reader: str, records: list[Any], *pictures: str) -> str:
    """Write a data set; returns its specification."""
    content = json.dumps(records).encode()
    return write_bytes(root, reader, content, *pictures)


def write_bytes(root: Path, reader: str, content: bytes, *pictures: str) -> str:
    (root / FILE[reader]).parent.mkdir(parents=True, exist_ok=True)
    (root / FILE[reader]).write_bytes(content)
    (root / "test/images").mkdir(parents=True, exist_ok=True)
    for name in pictures:
        Image.new("RGB", (30, 20)).save(root / "test/images" / name)
    return f"{reader}:{root / 'test'}"


def is_one_sentence(text: str) -> bool:
    return len(text) < 1200 and "\n" not in text and text.strip() == text != ""


def loaded(data: DataSet) -> list[Sample | str]:
    """Each sample, or the message of its error."""
    found: list[Sample | str] = []
    for index in range(len(data.names)):
        try:
            sample = data.load(index)
            assert sample.name == data.names[index]
            found.append(sample)
        except InputError as error:
            found.append(str(error))
    assert all(is_one_sentence(each) for each in found if isinstance(each, str))
    return found


@each_reader
@pytest.mark.parametrize(
    "content",
    [
        b"", b" ", b"{}", b"null", b"3", b'"text"', b"[", b"[1, 2", b"[1 2]", b"[1,]", b"[] []", b"[\xff]", b"\xff\xfe",
        b"\xff\xfe[", b"[" * 100_000, b'[{"a":' * 100_000, b'["' + b"x" * 200_000, b"\0" * 99, b"PK\x03\x04zip",
        b"\xef\xbb\xbf", b"[{}", b"[NaN", b'[{"a": "\\ud8',
    ],
)  # fmt: skip
def test_files_that_are_damaged_as_a_whole_are_refused(tmp_path: Path, reader: str, content: bytes) -> None:
    with pytest.raises(InputError) as error:
        open_data(write_bytes(tmp_path, reader, content))
    assert is_one_sentence(str(error.value))
    assert Path(FILE[reader]).name in str(error.value)


@each_reader
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, reader: str) -> None:
    whole = json.dumps([RECORD[reader]("1.png"), RECORD[reader]("2.png")]).encode()
    for length in range(0, len(whole), 7):
        with pytest.raises(InputError, match="the file again"):
            open_data(write_bytes(tmp_path, reader, whole[:length]))


@each_reader
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks_are_no_damage(tmp_path: Path, reader: str, encoding: str) -> None:
    records = [RECORD[reader](f"{at}é.png") for at in range(3)]
    content = json.dumps(records, ensure_ascii=False).encode(encoding)
    data = open_data(write_bytes(tmp_path, reader, content, "0é.png", "1é.png", "2é.png"))
    assert data.problems == []
    assert all(isinstance(sample, Sample) for sample in loaded(data))


BAD_NAMES = (
    None, 7, True, ["1.png"], "", ".", "..", "/", "a/", "../1.png", "a/../../1.png", "/etc/passwd", "a\\..\\..\\1.png",
    "a\0.png", "\ud800.png", "images/../../1.png", "/images/../1.png", "~/x/..",
)  # fmt: skip


@each_reader
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, reader: str, name: Any) -> None:
    records = [RECORD[reader](each) for each in ("0.png", name, "2.png")]
    data = open_data(write(tmp_path, reader, records, "0.png", "2.png"))
    assert data.names == ("0.png", "2.png")
    assert count_problems(data.problems) == {"bad_record": 1}
    assert all(isinstance(sample, Sample) for sample in loaded(data))


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str) and name != "\ud800.png"])
def test_names_in_tfrecords_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    file = write_records(tmp_path / "x.tfrecord", [richhf(name), richhf("2.png")])
    assert open_data(f"richhf:{file}").names == ("2.png",)


def changed(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A record with another value at a path of keys; the key ``DROP`` as the value takes it out."""
    record = copy.deepcopy(record)
    part = record
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return record


POLYGON = ("key", "refs", 0, "segmentation")
BOX = ("problems", "regional", 1, "region")


@pytest.mark.parametrize(
    ("reader", "path", "value", "kind"),
    [
        *(("synthscars", ("key",), value, "bad_record") for value in (None, 3, [], "text", {})),
        *(("synthscars", ("key", "caption"), value, "bad_record") for value in (3, ["a"], {}, True, "\udfff")),
        *(("synthscars", ("key", "refs"), value, "bad_record") for value in (3, "none", {}, True)),
        *(("synthscars", ("key", "refs", 1), value, "bad_ref") for value in (None, 3, "x", [])),
        *(("synthscars", ("key", "refs", 1, "sentence"), value, "bad_ref") for value in (3, ["a"], "\ud83d")),
        *(("synthscars", ("key", "refs", 1, "explanation"), value, "bad_ref") for value in (3, {}, "\ud83d")),
        *(("synthscars", POLYGON, value, "bad_ref") for value in (3, "1 2 3", {"counts": "abc"}, True)),
        *(
            ("synthscars", POLYGON, [value], "bad_polygon")
            for value in (
                None, 3, "1 2", [1, 2, 3], [1, 2, "3", 4], [1, 2, None, 4], [[1, 2], [3, 4], [5, 6]], [1, 2, True, 4],
                [1, 2, NAN, 4], [1, -INFINITE, 3, 4], [1, 2, 3, HUGE], [1, 2, 3, 4, 5e6, 6], [0, 0, -1e300, 1, 2, 2],
            )
        ),
        *(("loki", ("problems",), value, "bad_record") for value in (3, "x", ["x"], True)),
        *(("loki", ("problems", "global"), value, "bad_record") for value in (3, {}, [3], [["x"]], ["\ud83d"])),
        *(("loki", ("problems", "regional"), value, "bad_record") for value in (3, "x", {}, True)),
        *(("loki", ("problems", "regional", 1), value, "bad_region") for value in (None, 3, "x", [1, 2, 3, 4])),
        *(
            ("loki", BOX, value, "bad_region")
            for value in (
                None, 3, "1 2 3 4", {}, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None], [1, 2, True, 4],
                [1, 2, NAN, 4], [INFINITE, 2, 3, 4], [1, 2, 3, HUGE], [1, 2, -3, 4], [1, 2, 3, -0.5], [1e300, 2, 3, 4],
            )
        ),
        ("loki", ("problems", "regional", 1, "problem"), "\ud83d", "bad_region"),
        *(("fakexplained", ("messages",), value, "bad_record") for value in (None, 3, "x", {}, [], [3], [{}], [[]])),
        *(("fakexplained", ("messages", 1, key), value, "bad_record") for key in ("role", "content") for value in ODD),
        *(
            ("fakexplained", ("messages", 1, "content"), value, "bad_record")
            for value in (
                "", "<think></think>", "generated", "<verdict>generated", "generated</verdict>", "<verdict></verdict>",
                "<verdict>maybe</verdict>", "<verdict>real</verdict>",  # a real image has no boxes
                "<verdict>real</verdict><verdict>generated</verdict>", "<verdict>fake</verdict><verdict>fake</verdict>",
                "<verdict><verdict>fake</verdict></verdict>", "<tag>a<verdict>fake</verdict>",
                "a</tag><verdict>fake</verdict>", "<tag>a<tag>b</tag></tag><verdict>fake</verdict>",
                "<bbox><bbox><bbox><verdict>fake</verdict>", "<ref-object>" * 3 + "<verdict>fake</verdict>",
                "<tag>\ud800</tag><verdict>fake</verdict>",
            )
        ),
        ("fakexplained", ("messages", 0, "role"), "assistant", "bad_record"),
        ("fakexplained", ("messages", 0, "content"), "<bbox>", "bad_record"),
        *(
            ("fakexplained", ("images",), value, "bad_record")
            for value in (None, 3, "1.png", [], ["1.png", "2.png"], [["1.png"]], [{"path": "1.png"}], {"0": "1.png"})
        ),
        *(("fakexplained", ("objects",), value, "bad_record") for value in (None, 3, "x", [], {}, {"ref": ["a"]})),
        *(("fakexplained", ("objects", "ref"), value, "bad_record") for value in (None, 3, "x", ["a"], ["a"] * 3)),
        *(("fakexplained", ("objects", "ref", 1), value, "bad_region") for value in ODD),
        *(("fakexplained", ("objects", "bbox"), value, "bad_record") for value in (None, 3, "x", [], [1, 2, 3, 4])),
        *(
            ("fakexplained", ("objects", "bbox", 1), value, "bad_region")
            for value in (
                None, 3, "1 2 3 4", {}, [], [1, 2], [1, 2, 3], [1, 2, 30, 40, 5], [1, 2, 30, "40"], [1, 2, 30, None],
                [1, 2, True, 40], [1, 2, NAN, 40], [-INFINITE, 2, 30, 40], [1, 2, 30, HUGE], [1, 2, 1e300, 40],
                [-5e6, 2, 30, 40], [30, 2, 1, 40], [1, 2, 1.5, 40], [1, 2, 1, 2],
            )
        ),
        *(("fakexplained", ("objects", "bbox_type"), value, "bad_record") for value in (3, "", "pixels", ["real"])),
    ],
)  # fmt: skip
def test_broken_records_are_named_and_the_rest_goes_on(
    tmp_path: Path, reader: str, path: tuple[Any, ...], value: Any, kind: str
) -> None:
    records = [RECORD[reader](f"{at}.png") for at in range(3)]
    records[1] = changed(records[1], path, value)
    data = open_data(write(tmp_path, reader, records, "0.png", "2.png"))
    assert data.names == ("0.png", "2.png")
    assert count_problems(data.problems) == {kind: 1}
    assert "record 1" in data.problems[0].where
    assert is_one_sentence(str(data.problems[0]))
    assert all(isinstance(sample, Sample) for sample in loaded(data))


@each_reader
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [{}], True, {"a": {}, "b": {}}, 1e400])
def test_values_that_are_no_records(tmp_path: Path, reader: str, value: Any) -> None:
    data = open_data(write(tmp_path, reader, [value, RECORD[reader]("1.png")], "1.png"))
    assert (data.names, count_problems(data.problems)) == (("1.png",), {"bad_record": 1})


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*here, key)
        yield from paths(each, (*here, key))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just(HUGE), st.just("\ud800"),
    st.lists(st.floats(-40, 40), max_size=9),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@each_reader
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(value=values, place=st.integers(0, 99))
def test_any_value_anywhere_costs_at_most_its_record(tmp_path: Path, reader: str, value: Any, place: int) -> None:
    records = [RECORD[reader](f"{at}.png") for at in range(3)]
    known = list(paths(records[1]))
    records[1] = changed(records[1], known[place % len(known)], value)
    data = open_data(write(tmp_path, reader, records, "0.png", "1.png", "2.png"))
    assert (data.names[0], data.names[-1]) == ("0.png", "2.png")
    samples = loaded(data)
    assert isinstance(samples[0], Sample)
    assert isinstance(samples[-1], Sample)
    assert len(samples) + any(problem.kind.startswith(("bad", "duplicate")) for problem in data.problems) == 3


PICTURES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "tiny": lambda path: Image.new("RGB", (3, 3)).save(path),
    "script": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
}


def json_data(reader: str) -> Callable[[Path], str]:
    return lambda root: write(root, reader, [RECORD[reader](f"{at}.png") for at in range(3)])


def tfrecords(root: Path) -> str:
    return f"richhf:{write_records(root / 'test/x.tfrecord', [richhf(f'{at}.png') for at in range(3)])}"


def masks(root: Path) -> str:
    (root / "test/masks").mkdir()
    for at in range(3):
        Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(root / f"test/masks/{at}.png")
    return f"pal4vst:{root / 'test'}"


def verdicts(root: Path) -> str:
    (root / "test/images").rename(root / "test/1_fake")
    (root / "test/images").symlink_to("1_fake")
    return f"universalfake:{root / 'test'}"


def anomreason(root: Path) -> str:
    (root / "test/images").rename(root / "test/1_fake")
    (root / "test/images").symlink_to("1_fake")
    words = [{"Name": "hand", "Observed Phenomenon": "Six fingers.", "Reasoning": "Hands have five."}]
    (root / "test/anomalies.json").write_text(json.dumps({f"{at}.png": words for at in range(3)}))
    return f"anomreason:{root / 'test'}"


@pytest.mark.parametrize("damage", [damage for damage in PICTURES if damage not in ("missing", "folder")])
@pytest.mark.parametrize(
    "build",
    [json_data("synthscars"), json_data("loki"), json_data("fakexplained"), tfrecords, masks, verdicts, anomreason],
)
def test_pictures_that_cannot_be_read_cost_their_sample(
    tmp_path: Path, build: Callable[[Path], str], damage: str
) -> None:
    (tmp_path / "test/images").mkdir(parents=True)
    for at in range(3):
        Image.new("RGB", (30, 20)).save(tmp_path / f"test/images/{at}.png")
    specification = build(tmp_path)
    PICTURES[damage](tmp_path / "test/images/1.png")
    samples = loaded(open_data(specification))
    assert [isinstance(sample, Sample) for sample in samples] == [True, False, True]
    assert "1.png" in str(samples[1])


@pytest.mark.parametrize("damage", ["missing", "folder"])
@pytest.mark.parametrize(
    "build", [json_data("synthscars"), json_data("loki"), json_data("fakexplained"), tfrecords, anomreason]
)
def test_records_without_a_picture_are_samples_with_an_error(
    tmp_path: Path, build: Callable[[Path], str], damage: str
) -> None:
    test_pictures_that_cannot_be_read_cost_their_sample(tmp_path, build, damage)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("content_types.json", b"", "Cannot read"),
        ("content_types.json", b"[]", "Expected an object"),
        ("content_types.json", b"{" * 100_000, "Cannot read"),
        ("content_types.json", b"\xff", "Cannot read"),
        ("content_types.csv", b"", "columns image, content_type"),
        ("content_types.csv", b"a,b\n1,2\n", "columns image, content_type"),
        ("content_types.csv", b"image,content_type\n\xff,human\n", "UTF-8 CSV"),
    ],
)
def test_files_of_contents_that_are_damaged_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    specification = write(tmp_path, "synthscars", [synthscars("1.png")])
    (tmp_path / "test" / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_data(specification)
    assert is_one_sentence(str(error.value))
