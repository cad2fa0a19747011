"""RichHF-18K: TFRecord files, heat maps and scores, and what becomes of damaged ones."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.richhf import THRESHOLD
from refiner.data.sources import open_data
from refiner.data.tfrecord import masked_checksum, parse_example, read_tfrecord, stream_tfrecord
from refiner.errors import InputError, MissingImageError
from tests.support.tfrecords import encoded, framed, write_records

SCORES = {"aesthetics_score": 0.25, "artifact_score": 0.5, "misalignment_score": 1.0, "overall_score": 0.0}


def heat(value: int = 255) -> bytes:
    """A map of 64 x 64 whose upper left quarter has a value."""
    values = np.zeros((64, 64), dtype=np.uint8)
    values[:32, :32] = value
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def record(name: str = "train/1.png", **changes: Any) -> dict[str, Any]:
    facts = {"filename": name, "artifact_map": heat(), "misalignment_map": heat(), "prompt_misalignment_label": "1 0"}
    return facts | SCORES | changes


def paint(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(folder / name)


def test_a_sample_has_the_heat_map_its_mask_and_the_scores(tmp_path: Path) -> None:
    faint = record("b.png", artifact_map=heat(127))
    write_records(tmp_path / "test.tfrecord", [record(), faint, record("c.png", artifact_map=heat(0))])
    paint(tmp_path / "images", "train/1.png", "else/b.jpg", "c.png")
    data = open_data(f"richhf:{tmp_path}")
    assert open_data(f"richhf:{tmp_path / 'test.tfrecord'}").names == data.names == ("train/1.png", "b.png", "c.png")
    assert data.problems == []
    sample, dim, clean = (pickle.loads(pickle.dumps(data)).load(index) for index in range(3))
    assert [(score.name, score.value, score.higher_is_better) for score in sample.scores] == [
        ("aesthetics", 0.25, True), ("artifact", 0.5, True), ("misalignment", 1.0, True), ("overall", 0.0, True)
    ]  # fmt: skip
    assert (sample.fake, sample.categorised, sample.itemised, sample.group) == (True, False, False, "train")
    for each in (sample, dim, clean):
        assert each.truth is not None
        assert each.truth.heatmap is not None
        assert each.truth.heatmap.shape == (20, 40)
        assert np.array_equal(each.truth.mask, each.truth.heatmap > THRESHOLD)
    assert sample.truth is not None
    assert sample.truth.regions[0].box == (0, 0, 20, 10)
    assert dim.truth is not None
    assert dim.truth.heatmap is not None
    assert (dim.truth.regions, float(dim.truth.heatmap.max()) > 0.4) == ((), True)


def test_names_that_fit_no_picture_or_several_are_counted(tmp_path: Path) -> None:
    write_records(
        tmp_path / "test.tfrecord", [record("train/1.png"), record("2.png"), record("3.png"), record("2.png")]
    )
    paint(tmp_path, "a/2.jpg", "b/2.jpg", "3.png", "4.png")
    data = open_data(f"richhf:{tmp_path}")
    assert count_problems(data.problems) == {"duplicate_basename": 1, "duplicate_image": 1, "missing_record": 1}
    assert data.load(2).name == "3.png"
    for index in (0, 1):
        with pytest.raises(MissingImageError):
            data.load(index)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"filename": "../1.png"}, "bad_record"),
        ({"filename": "/etc/passwd"}, "bad_record"),
        ({"filename": b"\xff.png"}, "bad_record"),
        ({"filename": ""}, "bad_record"),
        ({"filename": 1.5}, "bad_record"),
        ({"filename": 7}, "bad_record"),
        ({"overall_score": float("nan")}, "bad_record"),
        ({"overall_score": float("inf")}, "bad_record"),
        ({"overall_score": [0.5, 0.5]}, "bad_record"),
        ({"overall_score": "0.5"}, "bad_record"),
        ({"artifact_map": 0.5}, "bad_record"),
        ({"artifact_map": b""}, "missing_map"),
        ({"artifact_map": []}, "missing_map"),
    ],
)
def test_broken_records_are_named_and_the_rest_goes_on(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    file = write_records(tmp_path / "test.tfrecord", [record("0.png"), record("1.png") | changes, record("2.png")])
    paint(tmp_path, "0.png", "1.png", "2.png")
    data = open_data(f"richhf:{file}")
    found = count_problems(data.problems)
    assert found.pop("missing_record", 0) == (kind == "bad_record")
    assert found == {kind: 1}
    assert [data.load(index).truth is None for index in range(len(data.names))] == (
        [False, False] if kind == "bad_record" else [False, True, False]
    )


@pytest.mark.parametrize("data", [b"not a map", heat()[:60], b"GIF89a", b"\x89PNG\r\n\x1a\n" * 9])
def test_maps_that_are_no_pictures_cost_their_sample(tmp_path: Path, data: bytes) -> None:
    file = write_records(tmp_path / "test.tfrecord", [record("0.png", artifact_map=data), record("1.png")])
    paint(tmp_path, "0.png", "1.png")
    samples = open_data(f"richhf:{file}")
    with pytest.raises(InputError, match=r"heat map of '0\.png'"):
        samples.load(0)
    assert samples.load(1).truth is not None


def bent(at: int, value: int) -> Any:
    def change(data: bytes) -> bytes:
        return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]

    return change


RECORDS = [encoded(record(f"{at}.png")) for at in range(3)]
STARTS = [len(framed(RECORDS[:count])) for count in range(4)]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda data: data[:-1], 2),
        (lambda data: data[: STARTS[2] + 5], 2),
        (lambda data: data[: STARTS[1] + 12], 1),
        (lambda data: data + b"\0", 3),
        (lambda data: data + b"\xff" * 99, 3),
        (bent(STARTS[1], 1), 1),
        (bent(STARTS[1] + 6, 128), 1),
        (bent(STARTS[1] + 9, 1), 1),
        (lambda data: data + framed([b""])[:8], 3),
    ],
)
def test_a_file_is_read_up_to_its_damage(tmp_path: Path, change: Any, left: int) -> None:
    (tmp_path / "test.tfrecord").write_bytes(change(framed(RECORDS)))
    paint(tmp_path, *(f"{at}.png" for at in range(left)))
    data = open_data(f"richhf:{tmp_path}")
    assert len(data.names) == left
    assert count_problems(data.problems) == {"damaged_file": 1}
    assert f"only {left} records" in data.problems[0].detail
    assert data.load(left - 1).truth is not None


def test_a_record_without_its_checksum_costs_its_sample(tmp_path: Path) -> None:
    place = framed(RECORDS).index(heat(), STARTS[1]) + 50
    (tmp_path / "test.tfrecord").write_bytes(bent(place, 1)(framed(RECORDS)))
    paint(tmp_path, "0.png", "1.png", "2.png")
    data = open_data(f"richhf:{tmp_path}")
    assert data.names == ("0.png", "1.png", "2.png")
    with pytest.raises(InputError, match="does not have its checksum"):
        data.load(1)
    assert data.load(2).truth is not None


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"[]", b"\xff" * 16 + b"x" * 99])
def test_files_without_a_record_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test.tfrecord").write_bytes(content)
    with pytest.raises(InputError, match="none that can be used"):
        open_data(f"richhf:{tmp_path}")


def test_missing_files_and_several_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got none"):
        open_data(f"richhf:{tmp_path}")
    for split in ("dev", "test"):
        write_records(tmp_path / f"{split}.tfrecord", [record()])
    with pytest.raises(InputError, match=r"dev\.tfrecord and test\.tfrecord: name one file"):
        open_data(f"richhf:{tmp_path}")


def test_the_checksum_is_that_of_crc_32c() -> None:
    total = 0xE3069283  # CRC-32C of "123456789"
    assert masked_checksum(b"123456789") == ((total >> 15 | total << 17) + 0xA282EAD8) & 0xFFFFFFFF


texts = st.lists(st.binary(max_size=300), min_size=1, max_size=3)
floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40)


@given(st.lists(st.dictionaries(st.text(max_size=9), st.one_of(texts, floats), max_size=5), max_size=4))
def test_files_that_tensorboard_writes_come_back(tmp_path_factory: Any, examples: list[dict[str, Any]]) -> None:
    file = write_records(tmp_path_factory.mktemp("records") / "x.tfrecord", examples)
    places = [(place, data) for place, data in stream_tfrecord(file)]
    assert [dict(parse_example(data)) for _, data in places] == [
        {name: tuple(values) for name, values in example.items()} for example in examples
    ]
    assert all(read_tfrecord(place) == data for place, data in places)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, value: int) -> None:
    whole = bytearray(RECORDS[0])
    whole[at % len(whole)] = value
    for data in (noise, bytes(whole), bytes(whole[: at % len(whole)])):
        with suppress(ValueError):
            assert all(isinstance(value, tuple) for value in parse_example(data).values())
