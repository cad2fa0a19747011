"""SDG-30K: boxes with y first, types, importance and splits; damaged files are named and the rest is read."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample
from refiner.data.sources import open_data
from refiner.data.writing.conversion import convert_data
from refiner.errors import ConfigError, InputError, MissingImageError
from refiner.taxonomy import Category

PAW: dict[str, Any] = {"box_2d": [100, 200, 300, 600], "description": " six toes ", "importance": 45}
COLOUR: dict[str, Any] = {"box_2d": [0, 0, 1000, 1000], "desc": "it is no red cat", "importance": 90}


def record(path: Any = "images/flux/1.png", **changes: Any) -> dict[str, Any]:
    lists = {"artifact_bboxes": [PAW], "misalignment_bboxes": [COLOUR]}
    return {"filepath": path, "caption": "a red cat", "generator": "flux", **lists, **changes}


def write(root: Path, records: list[Any], *pictures: str, split: str = "test", place: str = "annotations") -> Path:
    lines = "".join(json.dumps(each) + "\n" for each in records)
    return write_text(root, lines, *pictures, split=split, place=place)


def write_text(root: Path, text: str, *pictures: str, split: str = "test", place: str = "annotations") -> Path:
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / f"{split}.jsonl").write_text(text, encoding="utf-8")
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(root / name)
    return root


@pytest.mark.parametrize("place", ["annotations", "."])
def test_boxes_have_y_first_and_importance_is_severity(tmp_path: Path, place: str) -> None:
    clean = record("images/sana/1.png", artifact_bboxes=[], misalignment_bboxes=None, generator=None)
    root = write(tmp_path, [record(), clean], "images/flux/1.png", "images/sana/1.png", place=place)
    data = open_data(f"sdg:{root}")
    assert (data.names, data.problems) == (("flux/1.png", "sana/1.png"), [])
    first, second = (pickle.loads(pickle.dumps(data)).load(index) for index in range(2))
    assert (first.group, first.prompt, first.fake, first.split) == ("flux", "a red cat", True, "test")
    assert (first.categorised, first.itemised, first.misalignments, first.weighed) == (False, True, True, True)
    assert first.truth is not None
    found = [(each.box, each.category, each.severity, each.explanation) for each in first.truth.regions]
    # 40 x 20 pixels: x 200 to 600 and y 100 to 300 thousandths
    assert found == [
        ((8, 2, 24, 6), Category.TEXTURE, 0.45, "six toes"),
        ((0, 0, 40, 20), Category.MISALIGNMENT, 0.9, "it is no red cat"),
    ]
    assert first.anomalies is not None
    assert [(claim.explanation, claim.category, claim.severity) for claim in first.anomalies] == [
        ("six toes", None, 0.45),
        ("it is no red cat", Category.MISALIGNMENT, 0.9),
    ]
    assert [entry["Observed Phenomenon"] for entry in first.truth_record()["anomalies"]] == ["six toes"]
    assert second.truth is not None
    assert (second.group, second.truth.regions, second.anomalies, second.weighed) == ("sana", (), (), True)


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ([0, 0, 1, 1], (0, 0, 1, 1)),
        ([999, 999, 1000, 1000], (39, 19, 40, 20)),
        ([-50, -3, 500, 1050], (0, 0, 40, 10)),
        ([100.4, 12.5, 400.6, 512.5], (0, 2, 20, 8)),
    ],
)
def test_boxes_are_rounded_to_the_nearest_pixels(tmp_path: Path, box: list[float], wanted: tuple[int, ...]) -> None:
    root = write(tmp_path, [record(artifact_bboxes=[box], misalignment_bboxes=[])], "images/flux/1.png")
    sample = open_data(f"sdg:{root}").load(0)
    assert sample.truth is not None
    assert [region.box for region in sample.truth.regions] == [wanted]
    assert sample.weighed is False


def test_the_folder_of_images_may_be_missing_in_the_paths(tmp_path: Path) -> None:
    root = write(tmp_path, [record("flux/1.png"), record("2.png")], "flux/1.png", "images/2.png")
    data = open_data(f"sdg:{root}")
    assert data.names == ("flux/1.png", "2.png")
    assert all(sample.image is not None for sample in map(data.load, range(2)))


def test_splits(tmp_path: Path) -> None:
    write(tmp_path, [record("images/a.png")], "images/a.png", "images/lonely.png", split="train")
    assert open_data(f"sdg:{tmp_path}").names == ("a.png",)
    write(tmp_path, [record("images/b.png")], "images/b.png")
    data = open_data(f"sdg:{tmp_path}")
    assert data.names == open_data(f"sdg:{tmp_path},split=test").names == ("b.png",)
    assert open_data(f"sdg:{tmp_path},split=train").load(0).split == "train"
    assert [(each.kind, each.where) for each in data.problems] == [("missing_record", "lonely.png")]
    with pytest.raises(InputError, match="'val'"):
        open_data(f"sdg:{tmp_path},split=val")
    with pytest.raises(ConfigError, match="split"):
        open_data(f"sdg:{tmp_path},order=x")
    with pytest.raises(InputError, match="got none"):
        open_data(f"sdg:{tmp_path / 'nowhere'}")


def test_pictures_and_records_that_do_not_fit_are_named(tmp_path: Path) -> None:
    silent = {"box_2d": [0, 0, 5, 5]}
    data = open_data(f"sdg:{write(tmp_path, [record(), record(), record('2.png', artifact_bboxes=[silent])])}")
    assert count_problems(data.problems) == {"duplicate_image": 1, "empty_text": 1}
    with pytest.raises(MissingImageError):
        data.load(0)


def is_one_sentence(text: str) -> bool:
    return len(text) < 1200 and "\n" not in text and text.strip() == text != ""


def loaded(data: DataSet) -> list[Sample | str]:
    found: list[Sample | str] = []
    for index in range(len(data.names)):
        try:
            found.append(data.load(index))
        except InputError as error:
            found.append(str(error))
    assert all(is_one_sentence(each) for each in found if isinstance(each, str))
    return found


@pytest.mark.parametrize(
    "text",
    ["", " \n\n", "{}", "null\n3\ntrue", "[[[", '{"filepath": 3}', "\0" * 99, '{"a":' * 100_000, "PK\x03\x04zip"],
)
def test_files_without_a_record_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as error:
        open_data(f"sdg:{write_text(tmp_path, text)}")
    assert is_one_sentence(str(error.value))


def test_a_file_that_is_cut_off_keeps_its_whole_lines(tmp_path: Path) -> None:
    lines = [json.dumps(record(f"{at}.png")) for at in range(2)]
    for length in range(0, len(lines[1]), 9):
        text = f"{lines[0]}\n{lines[1][:length]}"
        data = open_data(f"sdg:{write_text(tmp_path, text, '0.png', '1.png')}")
        assert data.names == ("0.png",)
        known = {"missing_record": 1} | ({"bad_record": 1} if length else {})
        assert count_problems(data.problems) == known


ODD = (3, True, ["a"], {"a": "b"}, "\ud83d")


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        *(
            (("filepath",), value, "bad_record")
            for value in (
                None, *ODD[:4], "", "..", "/", "a/", "../1.png", "/etc/passwd", "a\\..\\..\\1.png", "a\0.png",
                "\ud800.png",
            )
        ),
        *(((field,), value, "bad_record") for field in ("caption", "generator") for value in ODD),
        *(((f"{kind}_bboxes",), each, "bad_record") for kind in ("artifact", "misalignment") for each in (3, "x", {})),
        *((("artifact_bboxes", 0), value, "bad_region") for value in (None, 3, "x", {}, [], [1, 2, 3])),
        *(
            (("misalignment_bboxes", 0, "box_2d"), value, "bad_region")
            for value in (
                None, 3, "1 2 3 4", {}, [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 30, "40"], [1, 2, 30, None],
                [1, 2, True, 40], [1, 2, float("nan"), 40], [1, 2, float("inf"), 40], [1, 2, 30, 10**400],
                [1, 2, 1, 40], [30, 2, 1, 40], [1, 40, 30, 2], [-51, 2, 30, 40], [1, 2, 30, 1051], [-9, 2, -1, 40],
                [1000, 2, 1010, 40],
            )
        ),
        *(
            (("artifact_bboxes", 0, "importance"), value, "bad_region")
            for value in ("45", [45], True, 0, -1, 101, float("nan"), 10**400)
        ),
        *((("artifact_bboxes", 0, "description"), value, "bad_region") for value in ODD),
        *((("misalignment_bboxes", 0, "desc"), value, "bad_region") for value in ODD),
    ],
)  # fmt: skip
def test_broken_records_are_named_and_the_rest_goes_on(
    tmp_path: Path, path: tuple[Any, ...], value: Any, kind: str
) -> None:
    records = [record(f"{at}.png") for at in range(3)]
    records[1] = changed(records[1], path, value)
    data = open_data(f"sdg:{write(tmp_path, records, '0.png', '2.png')}")
    assert (data.names, count_problems(data.problems)) == (("0.png", "2.png"), {kind: 1})
    assert "line 2" in data.problems[0].where
    assert is_one_sentence(str(data.problems[0]))
    assert all(isinstance(sample, Sample) for sample in loaded(data))


@pytest.mark.parametrize("field", ["artifact_bboxes", "misalignment_bboxes"])
def test_an_image_without_a_list_is_not_known_to_be_clean(tmp_path: Path, field: str) -> None:
    records = [record("0.png"), {key: value for key, value in record("1.png").items() if key != field}]
    data = open_data(f"sdg:{write(tmp_path, records, '0.png')}")
    assert (data.names, count_problems(data.problems)) == (("0.png",), {"bad_record": 1})
    assert field in str(data.problems[0])


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    part = value
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = new
    return value


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*here, key)
        yield from paths(each, (*here, key))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just(10**400), st.just("\ud800"),
    st.lists(st.floats(-90, 1090), max_size=5),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(value=values, place=st.integers(0, 99))
def test_any_value_anywhere_costs_at_most_its_record(tmp_path: Path, value: Any, place: int) -> None:
    records = [record(f"{at}.png") for at in range(3)]
    known = list(paths(records[1]))
    records[1] = changed(records[1], known[place % len(known)], value)
    data = open_data(f"sdg:{write(tmp_path, records, '0.png', '1.png', '2.png')}")
    assert (data.names[0], data.names[-1]) == ("0.png", "2.png")
    samples = loaded(data)
    assert all(isinstance(samples[at], Sample) for at in (0, -1))
    assert len(samples) + any(problem.kind.startswith(("bad", "duplicate")) for problem in data.problems) == 3


def test_conversion_keeps_misalignments_and_importance(tmp_path: Path) -> None:
    root = write(
        tmp_path / "sdg", [record(), record("images/2.png", artifact_bboxes=[])], "images/flux/1.png", "images/2.png"
    )
    done = convert_data(open_data(f"sdg:{root}"), tmp_path / "out", "refiner", [])
    assert done.regions == 3
    again = open_data(f"fakexplained:{tmp_path / 'out'}").load(0)
    assert again.truth is not None
    found = [(each.box, each.severity, each.explanation) for each in again.truth.regions]
    assert found == [((8, 2, 24, 6), 0.45, "six toes"), ((0, 0, 40, 20), 0.9, "it is no red cat")]
    assert again.truth.regions[1].category is Category.MISALIGNMENT
    assert again.perceptual.truth is not None
    assert len(again.perceptual.truth.regions) == 1
