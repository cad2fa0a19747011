"""FakeXplain's records in ms-swift's form: what is read from the authors' folder and from single files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample
from refiner.data.sources import open_data
from refiner.errors import InputError

LEGS, FUR = ("three legs", [2, 3, 10.5, 8]), ("metallic fur", [0, 0, 30, 20])
LINES = "<ref-object><bbox>"


def record(path: Any, *flaws: tuple[str, list[float]], answer: str = "", **kinds: object) -> dict[str, Any]:
    """A record of one image; a generated one if it has flaws."""
    verdict = "<verdict>generated</verdict>" if flaws else "<verdict>real</verdict>"
    answer = answer or f"<think>{LINES * len(flaws)}</think>{verdict}"
    messages = [{"role": "user", "content": "<image>Is it real?"}, {"role": "assistant", "content": answer}]
    facts = {"messages": messages, "images": [path]}
    boxes = {"ref": [text for text, _ in flaws], "bbox": [box for _, box in flaws]}
    return facts | {"objects": boxes | kinds} if flaws or kinds else facts


def write(file: Path, *records: dict[str, Any] | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in records))
    return file


def paint(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(folder / name)


def samples(data: DataSet) -> list[Sample]:
    return [data.load(index) for index in range(len(data.names))]


def boxes(sample: Sample) -> list[Any]:
    assert sample.truth is not None
    return [region.box for region in sample.truth.regions]


def test_the_folder_of_the_authors_is_read(tmp_path: Path) -> None:
    paint(tmp_path / "images", "batch_a/1.png", "batch_b/2.png", "real_batch/3.png", "real_batch_a/4.png")
    records = [
        record("images/batch_a/1.png", LEGS, FUR),
        record("batch_b/2.png", FUR, answer=f"<think>{LINES}</think><verdict> Fake\n</verdict>"),
        record("images/real_batch/3.png"),
        {"image": "real_batch_a/4.png", "label": "real"},
    ]
    write(tmp_path / "annotations.jsonl", *records)
    data = open_data(f"fakexplained:{tmp_path}")
    assert data.problems == []
    assert data.names == ("batch_a/1.png", "batch_b/2.png", "real_batch/3.png", "real_batch_a/4.png")
    found = samples(data)
    assert [sample.fake for sample in found] == [True, True, False, False]
    assert [sample.group for sample in found] == ["batch_a", "batch_b", "real_batch", "real_batch_a"]
    assert list(map(boxes, found)) == [[(2, 3, 11, 8), (0, 0, 30, 20)], [(0, 0, 30, 20)], [], []]
    assert found[0].anomalies is not None
    assert [claim.explanation for claim in found[0].anomalies] == ["three legs", "metallic fur"]
    assert not any(sample.categorised for sample in found)


def test_both_kinds_of_records_name_the_same_image(tmp_path: Path) -> None:
    write(tmp_path / "annotations.jsonl", record("images/a/1.png"), {"image": "a/1.png", "label": "fake"})
    paint(tmp_path / "images", "a/1.png")
    data = open_data(f"fakexplained:{tmp_path}")
    assert [sample.fake for sample in samples(data)] == [False]
    assert count_problems(data.problems) == {"duplicate_image": 1}


@pytest.mark.parametrize(
    ("folder", "name", "group"),
    [("pictures/", "pictures/é.png", "pictures"), ("images/", "é.png", ""), ("", "é.png", "")],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_one_file_anywhere_names_images_beside_it(
    tmp_path: Path, folder: str, name: str, group: str, absolute: bool
) -> None:
    paint(tmp_path / "deep" / folder, "é.png")
    path = f"{folder}é.png"
    file = write(tmp_path / "deep/train.jsonl", record(f"{tmp_path}/deep/{path}" if absolute else path))
    [sample] = samples(open_data(f"swift:{file}"))
    assert (sample.name, sample.group) == (name, group)


@pytest.mark.parametrize("path", ["{root}/other/1.png", "{root}/data/../other/1.png", "/etc/passwd", "//etc/passwd"])
def test_absolute_paths_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    paint(tmp_path, "other/1.png", "data/2.png")
    file = write(tmp_path / "data/train.jsonl", record(path.format(root=tmp_path)), record("2.png"))
    data = open_data(f"swift:{file}")
    assert (data.names, count_problems(data.problems)) == (("2.png",), {"bad_record": 1})


@pytest.mark.parametrize(
    ("kind", "box", "wanted"),
    [
        ("real", [2, 3, 10.5, 8], (2, 3, 11, 8)),
        ("norm1000", [100, 150, 350, 400], (3, 3, 11, 8)),
        ("norm1", [0.1, 0.15, 0.35, 0.4], (3, 3, 11, 8)),
        ("norm1000", [500, 500, 500.1, 500.1], (15, 10, 16, 11)),
        ("norm1000", [-20, 0, 1500, 1000], (0, 0, 30, 20)),
    ],
)
def test_boxes_may_be_fractions(tmp_path: Path, kind: str, box: list[float], wanted: tuple[int, ...]) -> None:
    paint(tmp_path, "1.png")
    file = write(tmp_path / "train.jsonl", record("1.png", ("legs", box), bbox_type=kind))
    [sample] = samples(open_data(f"swift:{file}"))
    assert boxes(sample) == [wanted]


@pytest.mark.parametrize(("kind", "box"), [("real", [30, 0, 40, 9]), ("norm1000", [1000, 0, 1100, 9])])
def test_boxes_outside_the_image_are_an_error_of_their_sample(tmp_path: Path, kind: str, box: list[float]) -> None:
    paint(tmp_path, "1.png", "2.png")
    file = write(tmp_path / "train.jsonl", record("1.png", ("legs", box), bbox_type=kind), record("2.png", LEGS))
    data = open_data(f"swift:{file}")
    with pytest.raises(InputError, match=r"boxes inside 30x20 pixels of '1\.png'"):
        data.load(0)
    assert boxes(data.load(1)) == [(2, 3, 11, 8)]


@pytest.mark.parametrize(
    ("answer", "tags"),
    [
        ("<think><tag>fur, legs</tag></think><verdict>fake</verdict>", ("fur", "legs")),
        ("<think></think>\n<tag>fur,legs,</tag>\n<verdict>fake</verdict>", ("fur", "legs")),
        ("<tag> fur </tag><think><tag>\nlegs</tag></think><verdict>fake</verdict>", ("fur", "legs")),
        ("<think></think><tag></tag><verdict>fake</verdict>", ()),
        ("<think></think><verdict>fake</verdict>", ()),
    ],
)
def test_tags_stand_inside_or_after_the_thoughts(tmp_path: Path, answer: str, tags: tuple[str, ...]) -> None:
    paint(tmp_path, "1.png")
    [sample] = samples(open_data(f"swift:{write(tmp_path / 'train.jsonl', record('1.png', answer=answer))}"))
    assert sample.truth is not None
    assert sample.truth.tags == tags


@pytest.mark.parametrize(
    "answer",
    [
        "<think><|object_ref_start|>fur<|object_ref_end|><|box_start|>[1, 2, 9, 9]<|box_end|></think>",
        "<think><ref>fur</ref><box>[[1, 2, 9, 9]]</box></think>",
    ],
)
def test_boxes_in_the_text_alone_do_not_count_as_no_flaw(tmp_path: Path, answer: str) -> None:
    paint(tmp_path, "1.png", "2.png")
    spelt = record("1.png", answer=f"{answer}<verdict>generated</verdict>")
    data = open_data(f"swift:{write(tmp_path / 'train.jsonl', spelt, record('2.png'))}")
    assert (data.names, count_problems(data.problems)) == (("2.png",), {"bad_record": 1})


NESTED = b'{"messages": ' + b"[" * 100_000
HOSTILE = {
    "blank": b"  ",
    "no JSON": b"{",
    "deep": NESTED,
    "other bytes": json.dumps(record("1.png", LEGS)).encode().replace(b"three", b"thr\xe9e"),
    "UTF-16": json.dumps(record("1.png", LEGS)).encode("utf-16-le"),
    "zeros": b"\0" * 1000,
    "surrogate": json.dumps(record("1.png", ("\ud83d", [0, 0, 9, 9]))).encode(),
    "digits": b'{"messages": ' + b"9" * 10_000 + b"}",
    "many elements": json.dumps(record("1.png", answer="</tag><tag>" * 900_000)).encode(),
    "ten megabytes": json.dumps(record("1.png", answer="x" * 10_000_000)).encode(),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_lines_cost_at_most_their_record(tmp_path: Path, name: str) -> None:
    paint(tmp_path, "0.png", "1.png", "2.png")
    file = write(tmp_path / "train.jsonl", record("0.png", LEGS), HOSTILE[name], record("2.png", FUR))
    data = open_data(f"swift:{file}")
    assert data.names == ("0.png", "2.png")
    assert sum(count_problems(data.problems).values()) == (name != "blank")
    assert all("line 2" in problem.where and len(str(problem)) < 1000 for problem in data.problems)
    assert list(map(boxes, samples(data))) == [[(2, 3, 11, 8)], [(0, 0, 30, 20)]]


def test_a_long_text_is_no_damage(tmp_path: Path) -> None:
    paint(tmp_path, "1.png")
    file = write(tmp_path / "train.jsonl", record("1.png", ("legs " * 2_000_000, [0, 0, 9, 9])))
    [sample] = samples(open_data(f"swift:{file}"))
    assert sample.anomalies is not None
    assert len(sample.anomalies[0].explanation) == 9_999_999


@pytest.mark.parametrize("place", ["nowhere.jsonl", ".", ""])
def test_what_is_no_file_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match="is not a file"):
        open_data(f"swift:{tmp_path / place}")
