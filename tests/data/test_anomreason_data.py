"""AnomReason's folder as a data set, its splits, and the same data written and read again."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from refiner.data.problems import Problem, count_problems
from refiner.data.samples import DataSet, Sample
from refiner.data.sources import open_data
from refiner.data.writing import convert_data
from refiner.errors import InputError, MissingImageError, UserError

BREAD = {
    "Name": "Smooth bread",
    "Observed Phenomenon": "The bread is too smooth.",
    "Reasoning": "Bread has pores.",
    "Severity Score": "25/100 (noticeable but not disruptive).",
}
HAT = {"name": "Floating hat", "phenomenon": "The hat floats.", "reasoning": "Hats rest on heads.", "severity": 5}
NAMES = ("1_fake/a_sdv35.jpg", "1_fake/b_sana.jpg", "1_fake/c_flux.jpg", "0_real/r.jpg", "0_real/s.jpg")
WHY = "The light is coherent."


def picture(path: Path, shade: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), (shade, 8, 9)).save(path)


def write(root: Path, anomalies: Any = None, descriptions: Any = None, splits: Any = None) -> str:
    """Write JSON files; returns the specification."""
    root.mkdir(parents=True, exist_ok=True)
    files = {"AnomReason_After_HITL.json": anomalies, "Real_image_caption.json": descriptions}
    for name, content in (files | {"dataset_split_list.json": splits}).items():
        if content is not None:
            (root / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return f"anomreason:{root}"


def published(root: Path, splits: Any = None) -> str:
    """The layout of the authors: three generated images and two real ones."""
    for shade, name in enumerate(NAMES):
        picture(root / name, shade)
    records = {"a_sdv35.jpg": [BREAD, HAT], "b_sana.jpg": [HAT | {"severity": 25.0}], "c_flux.jpg": []}
    return write(root, records, {"r.jpg": f" {WHY} ", "s.jpg": "The hands are right."}, splits)


def loaded(data: DataSet) -> list[Sample]:
    return [data.load(index) for index in range(len(data.names))]


def told(sample: Sample) -> tuple[Any, ...]:
    """What a sample says, apart from its name."""
    return sample.fake, sample.anomalies, sample.caption, sample.split, np.asarray(sample.image).tobytes()


def test_generated_images_have_anomalies_and_real_ones_a_description(tmp_path: Path) -> None:
    data = open_data(published(tmp_path))
    assert (data.names, data.problems) == (NAMES, [])
    first, second, third, real, _ = loaded(pickle.loads(pickle.dumps(data)))
    assert [sample.fake for sample in loaded(data)] == [True] * 3 + [False] * 2
    assert first.anomalies is not None
    assert [(each.name, each.explanation, each.reasoning, each.severity) for each in first.anomalies] == [
        ("Smooth bread", "The bread is too smooth.", "Bread has pores.", 0.75),
        ("Floating hat", "The hat floats.", "Hats rest on heads.", 0.95),
    ]
    assert [each.severity for each in second.anomalies or ()] == [0.75]
    assert (third.anomalies, real.anomalies) == ((), ())
    assert (first.caption, real.caption) == ("", WHY)
    assert {sample.truth for sample in loaded(data)} == {None}, "nobody knows where"
    assert {sample.group for sample in loaded(data)} == {""}


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg", "a.png"),
        ("a", "a.webp"),
        ("1_fake/a.jpg", "a.jpg"),
        ("/data/set/1_fake/a.jpg", "a.jpg"),
        ("D:\\data\\a.jpg", "a.jpg"),
        ("../a.jpg", "a.jpg"),
        ("sana/a.jpg", "sana/a.jpg"),
        ("somewhere/else/a.jpg", "a.jpg"),
        ("v1.5.jpg", "v1.5.jpg"),
    ],
)
def test_a_record_finds_its_image(tmp_path: Path, key: str, file: str) -> None:
    picture(tmp_path / "1_fake" / file)
    data = open_data(write(tmp_path, {key: [HAT]}))
    assert (data.names, data.problems) == ((f"1_fake/{file}",), [])
    sample = data.load(0)
    assert sample.anomalies is not None
    assert sample.group == ("sana" if "/" in file else "")


@pytest.mark.parametrize("folder", ["", "images"])
def test_images_may_lie_in_one_folder(tmp_path: Path, folder: str) -> None:
    for name in ("a.jpg", "1_fake/b.jpg" if folder else "b.jpg", "r.jpg", "unknown.jpg"):
        picture(tmp_path / folder / name)
    data = open_data(write(tmp_path, {"a.jpg": [HAT], "1_fake/b.jpg": [BREAD]}, {"r.jpg": WHY}))
    assert [sample.fake for sample in loaded(data)] == [True, True, False]
    assert [sample.image is not None for sample in loaded(data)] == [True] * 3
    assert data.problems == []


def test_what_does_not_fit_together_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("1_fake/a.jpg", "1_fake/more.jpg", "0_real/r.jpg", "0_real/plain.jpg"):
        picture(tmp_path / name)
    records = {
        "a.jpg": [HAT],
        "x/a.jpg": [BREAD],
        "": [HAT],
        "..": [],
        "gone.jpg": [HAT],
        "b.jpg": 7,
        "c.jpg": [HAT, 3],
    }
    data = open_data(write(tmp_path, records, {"r.jpg": " ", "t.jpg": 3, "u.jpg": "\ud800"}))
    assert data.names == ("1_fake/a.jpg", "1_fake/gone.jpg", "0_real/r.jpg", "0_real/plain.jpg")
    assert count_problems(data.problems) == {
        "bad_name": 2, "duplicate_image": 1, "empty_text": 1, "missing_description": 1, "missing_record": 1,
        "unreadable_anomaly": 1, "unreadable_image": 3,
    }  # fmt: skip
    assert [each.caption for each in (data.load(2), data.load(3))] == ["", ""]
    with pytest.raises(MissingImageError, match=r"gone\.jpg"):
        data.load(1)


def test_real_images_need_no_descriptions(tmp_path: Path) -> None:
    picture(tmp_path / "1_fake/a.jpg")
    picture(tmp_path / "0_real/r.jpg")
    data = open_data(write(tmp_path, {"a.jpg": [HAT]}))
    assert (data.names, data.problems) == (("1_fake/a.jpg", "0_real/r.jpg"), [])
    assert [(each.fake, each.caption) for each in loaded(data)] == [(True, ""), (False, "")]


# Files


def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "AnomReason_After_HITL.json").rename(tmp_path / "z.json")
    (tmp_path / "Deepfake_Test_list.json").write_text('["1_fake/a.jpg"]')
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "numbers.json").write_text('{"a": 3}')
    (tmp_path / "settings.json").write_text('{"by": "me", "images": ["a_sdv35.jpg"]}')
    data = open_data(f"anomreason:{tmp_path}")
    assert data.names == NAMES
    assert [problem.where for problem in data.problems] == [
        "Deepfake_Test_list.json", "numbers.json", "settings.json"
    ]  # fmt: skip
    assert count_problems(data.problems) == {"ignored_file": 3}


def test_of_two_files_of_a_kind_one_must_be_named(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "before.json").write_text(json.dumps({"a_sdv35.jpg": [HAT] * 9}))
    with pytest.raises(InputError, match=r"'AnomReason_After_HITL\.json' and 'before\.json'"):
        open_data(f"anomreason:{tmp_path}")
    data = open_data(f"anomreason:{tmp_path / 'before.json'}")
    assert (data.names, data.problems) == (NAMES[:1], [])
    assert len(data.load(0).anomalies or ()) == 9
    assert open_data(f"anomreason:{tmp_path / 'Real_image_caption.json'}").names == NAMES[3:]


# Splits

SPLITS = {"train": ["a_sdv35.jpg", "1_fake/c_flux.jpg", "r.jpg"], "test": ["b_sana.jpg", "s.jpg"]}


def test_a_split_is_a_part_of_the_images(tmp_path: Path) -> None:
    specification = published(tmp_path, SPLITS)
    train, test = (open_data(f"{specification},split={split}") for split in SPLITS)
    assert (train.names, test.names) == ((NAMES[0], NAMES[2], NAMES[3]), (NAMES[1], NAMES[4]))
    assert train.problems == test.problems == []
    everything = {sample.name: told(sample) for sample in loaded(open_data(specification))}
    assert {sample.name: told(sample) for sample in (*loaded(train), *loaded(test))} == everything
    assert [each.split for each in loaded(test)] == ["test", "test"]
    assert open_data(f"{specification},split=test", limit=1).names == NAMES[1:2]


def test_what_is_wrong_with_splits_is_named_and_counted(tmp_path: Path) -> None:
    splits = {"train": ["a_sdv35.jpg", "gone.jpg", 3, " "], "test": ["a_sdv35.jpg", "b_sana.jpg"], "note": "two parts"}
    specification = published(tmp_path, splits)
    data = open_data(f"{specification},split=train")
    assert data.names == NAMES[:1]
    counted = {"bad_split": 3, "missing_record": 1, "no_split": 3, "two_splits": 1}
    assert count_problems(data.problems) == counted
    assert all("\n" not in str(problem) for problem in data.problems)
    whole = open_data(specification)
    assert [each.split for each in loaded(whole)] == ["train", "test", "", "", ""]
    assert count_problems(whole.problems) == {"bad_split": 3, "two_splits": 1}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (",split=val", r"train, test\), got 'val'"),
        (",split=", r"train, test\), got ''"),
        (",spilt=test", "split as option of anomreason:"),
        (",split=test,split=train", "split as option of anomreason:"),
        (",test", "got none: check the path"),
    ],
)
def test_options_that_are_not_known(tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_data(published(tmp_path, SPLITS) + option)


def test_a_folder_may_look_like_an_option(tmp_path: Path) -> None:
    assert open_data(published(tmp_path / "x,split=test")).names == NAMES


def test_a_split_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_split_list\.json"):
        open_data(f"{published(tmp_path)},split=train")


BROKEN = (
    b"", b" ", b"null", b"3", b'"text"', b"{", b'{"a.jpg"', b'{"a.jpg": [', b'{"a.jpg": []', b'{"a.jpg": [],}',
    b"{} {}", b"\xff\xfe", b"\xff\xfe{", b"{\xff}", b'{"a":' * 100_000, b'{"' + b"x" * 200_000, b"\0" * 99,
    b"PK\x03\x04zip", b"\xef\xbb\xbf", b'{"a.jpg": "\\ud8',
)  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("file", ["anomalies", "descriptions", "splits"])
def test_files_that_are_damaged_as_a_whole_are_refused(tmp_path: Path, file: str, content: bytes) -> None:
    published(tmp_path)
    if file == "descriptions":
        content = content.replace(b"[", b'"x')
    with pytest.raises(InputError, match="Cannot read") as error:
        open_data(write(tmp_path, **{file: content}))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200


@pytest.mark.parametrize("content", [b"[]", b"[1", b"[" * 100_000, b"{}"], ids=range(4))
def test_a_folder_without_records_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"Expected JSON of image name .* got none"):
        open_data(write(tmp_path, content))


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = json.dumps({"a.jpg": [BREAD], "b.jpg": [HAT]}).encode()
    for length in range(0, len(whole), 7):
        with pytest.raises(InputError, match=r"AnomReason_After_HITL\.json"):
            open_data(write(tmp_path, whole[:length]))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks_are_no_damage(tmp_path: Path, encoding: str) -> None:
    picture(tmp_path / "1_fake/é.jpg")
    content = json.dumps({"é.jpg": [HAT | {"phenomenon": "手が六本"}]}, ensure_ascii=False).encode(encoding)
    [sample] = loaded(open_data(write(tmp_path, content)))
    assert [each.explanation for each in sample.anomalies or ()] == ["手が六本"]


def test_a_file_that_changes_is_an_error_of_its_samples(tmp_path: Path) -> None:
    data = open_data(published(tmp_path))
    for file in ("AnomReason_After_HITL.json", "Real_image_caption.json"):
        (tmp_path / file).write_text("[")
    for index in (0, 3):
        with pytest.raises(InputError, match="do not change the file"):
            data.load(index)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BREAD, *HAT, "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(value=VALUES, key=st.text(max_size=12))
def test_any_value_under_any_name_costs_at_most_its_record(tmp_path: Path, value: Any, key: str) -> None:
    for file in ("a.jpg", "z.jpg"):
        if not (tmp_path / "1_fake" / file).exists():
            picture(tmp_path / "1_fake" / file)
    data = open_data(write(tmp_path, {"a.jpg": [HAT], f"{key}#": value, "z.jpg": [HAT]}))
    good = [data.names.index(f"1_fake/{file}") for file in ("a.jpg", "z.jpg")]
    assert all(data.load(index).anomalies for index in good)
    assert len(data.names) + len(data.problems) >= 3


# Written and read again


def converted(data: DataSet, target: Path) -> tuple[DataSet, dict[str, int]]:
    problems: list[Problem] = []
    convert_data(data, target, "anomreason", problems)
    return open_data(f"anomreason:{target}"), count_problems(problems)


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    source = open_data(published(tmp_path / "0", SPLITS | {"val": []}))
    first, problems = converted(source, tmp_path / "1")
    assert problems == {}
    assert first.problems == []
    assert first.names == tuple(f"{name.rpartition('.')[0]}.png" for name in source.names)
    assert list(map(told, loaded(first))) == list(map(told, loaded(source)))
    second, _ = converted(first, tmp_path / "2")
    assert second.names == first.names
    for file in ("anomalies.json", "descriptions.json", "dataset_split_list.json"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_the_files_have_the_form_of_the_authors(tmp_path: Path) -> None:
    converted(open_data(published(tmp_path / "0", SPLITS)), tmp_path / "1")
    one, two, three = (
        json.loads((tmp_path / "1" / name).read_text(encoding="utf-8"))
        for name in ("anomalies.json", "descriptions.json", "dataset_split_list.json")
    )
    assert one["a_sdv35.png"][0] == BREAD | {"Severity Score": "25/100"}
    assert one["b_sana.png"][0]["Severity Score"] == "25/100"
    assert list(one) == ["a_sdv35.png", "b_sana.png", "c_flux.png"]
    assert two == {"r.png": WHY, "s.png": "The hands are right."}
    assert three == {"train": ["a_sdv35.png", "c_flux.png", "r.png"], "test": ["b_sana.png", "s.png"]}
    folders = {path.parent.name for path in (tmp_path / "1").rglob("*.png")}
    assert folders == {"1_fake", "0_real"}
