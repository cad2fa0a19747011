"""Community Forensics: rows of parquet files as samples, and what becomes of damaged rows and files."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from refiner.data.problems import count_problems
from refiner.data.samples import pairs_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError, MissingExtraError


def shade(red: int, size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 7, 9)).save(buffer, format="PNG")
    return buffer.getvalue()


def row(red: int = 0, model: Any = "DALLE3", label: Any = 1, **changes: Any) -> dict[str, Any]:
    """A row as the published ones are, whose image has a shade of red."""
    return {
        "image_name": f"{red:08d}.png", "format": "PNG", "resolution": [30, 20], "mode": "RGB",
        "image_data": shade(red),
        "model_name": model, "nsfw_flag": "false", "prompt": f"a cat {red}", "real_source": "LAION",
        "subset": "Commercial", "split": "test", "label": label, "architecture": "Commercial",
    } | changes  # fmt: skip


def write(file: Path, rows: list[dict[str, Any]], group: int = 3) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
    return file


def test_a_row_is_a_sample(tmp_path: Path) -> None:
    rows = [row(0), row(1, label=0), row(2, "coco", 0, prompt="N/A"), row(3, "org/model-v2", prompt=None, split=None)]
    write(tmp_path / "data/CompEval-00000-of-00001.parquet", rows)
    data = open_data(f"commfor:{tmp_path}")
    assert data.problems == []
    assert pairs_of(data) == [""] * 4
    samples = [pickle.loads(pickle.dumps(data)).load(index) for index in range(4)]
    assert [(each.name, each.group, each.fake, each.prompt, each.split, each.pair) for each in samples] == [
        ("DALLE3/fake/00000000.png", "DALLE3", True, "a cat 0", "test", ""),
        ("DALLE3/real/00000001.png", "DALLE3", False, "", "test", ""),
        ("coco/real/00000002.png", "", False, "", "test", ""),
        ("org/model-v2/fake/00000003.png", "org/model-v2", True, "", "", ""),
    ]
    assert tuple(each.name for each in samples) == data.names
    assert [each.image.getpixel((2, 2))[0] for each in samples if each.image] == [0, 1, 2, 3]


def test_rows_of_many_files_are_read_in_any_order(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"data/train-{number:05d}-of-00003.parquet", [row(10 * number + at) for at in range(7)])
    data = open_data(f"commfor:{tmp_path}")
    assert len(data.names) == 21
    for index in (20, 3, 4, 5, 0, 13, 13, 12):
        image = data.load(index).image
        assert image is not None
        assert image.getpixel((2, 2))[0] == 10 * (index // 7) + index % 7


def test_images_of_one_name_are_all_kept(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", [row(1), row(1, label=0), row(1), row(1, "glide")])
    write(tmp_path / "data/b.parquet", [row(1)])
    names = open_data(f"commfor:{tmp_path}").names
    assert names == (
        "DALLE3/fake/00000001.png", "DALLE3/real/00000001.png", "DALLE3/fake/00000001.png (data/a.parquet row 2)",
        "glide/fake/00000001.png", "DALLE3/fake/00000001.png (data/b.parquet row 0)",
    )  # fmt: skip


@pytest.mark.parametrize("split", ["CompEval", "compeval", "systematic", "Systematic"])
def test_a_split_is_a_folder_or_the_beginning_of_file_names(tmp_path: Path, split: str) -> None:
    for number, name in enumerate(("CompEval-00000-of-00002", "CompEval-00001-of-00002", "systematic/0", "manual/0")):
        write(tmp_path / f"data/{name}.parquet", [row(number)])
    write(tmp_path / "data/.cache/x.parquet", [row(9)])
    assert len(open_data(f"commfor:{tmp_path}").names) == 4
    assert len(open_data(f"commfor:{tmp_path},split={split}").names) == (2 if "omp" in split else 1)
    with pytest.raises(ConfigError, match=r"Expected a split .* got 'publicEval'.*CompEval-00000"):
        open_data(f"commfor:{tmp_path},split=publicEval")


@pytest.mark.parametrize(
    "changes",
    [
        {"label": None}, {"label": 2}, {"label": -1}, {"image_name": None}, {"image_name": ""}, {"image_name": " "},
        {"model_name": None}, {"model_name": ""},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_rows_are_named_and_the_rest_goes_on(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path / "x.parquet", [row(0), row(1) | changes, row(2)])
    data = open_data(f"commfor:{tmp_path}")
    assert data.names == ("DALLE3/fake/00000000.png", "DALLE3/fake/00000002.png")
    assert count_problems(data.problems) == {"bad_record": 1}
    assert "record 1" in str(data.problems[0])
    assert [data.load(index).prompt for index in range(2)] == ["a cat 0", "a cat 2"]


@pytest.mark.parametrize("column", ["label", "image_name", "model_name"])
@pytest.mark.parametrize("values", [[True] * 3, ["x", "y", "z"], [[1], [], None], [b"\xff"] * 3, [float("nan")] * 3])
def test_columns_of_other_types_cost_their_rows(tmp_path: Path, column: str, values: list[Any]) -> None:
    rows = [row(at) | {column: value} for at, value in enumerate(values)]
    write(tmp_path / "bad.parquet", rows)
    write(tmp_path / "good.parquet", [row(9)])
    data = open_data(f"commfor:{tmp_path}")
    assert data.names[-1] == "DALLE3/fake/00000009.png"
    assert len(data.names) - 1 + len(data.problems) == 3
    assert {problem.kind for problem in data.problems} <= {"bad_record"}


def test_a_text_that_is_not_utf_8_costs_its_row(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([row(0), row(1), row(2)])
    names = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(table.set_column(table.schema.get_field_index("model_name"), "model_name", names),
                        tmp_path / "x.parquet")  # fmt: skip
    data = open_data(f"commfor:{tmp_path}")
    assert data.names == ("a/fake/00000000.png", "c/fake/00000002.png")
    assert count_problems(data.problems) == {"bad_record": 1}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 9, b"PK\x03\x04", b"version https://git-lfs", None])
def test_a_damaged_file_does_not_cost_the_others(tmp_path: Path, content: bytes | None) -> None:
    whole = write(tmp_path / "data/b.parquet", [row(at) for at in range(9)])
    bad = tmp_path / "data/a.parquet"
    bad.write_bytes(whole.read_bytes()[:-200] if content is None else content)
    data = open_data(f"commfor:{tmp_path}")
    assert len(data.names) == 9
    assert count_problems(data.problems) == {"damaged_file": 1}
    assert "download the file again" in str(data.problems[0])
    whole.unlink()
    with pytest.raises(InputError, match=r"a\.parquet.*download the file again"):
        open_data(f"commfor:{tmp_path}")


def test_images_that_cannot_be_read_cost_their_sample(tmp_path: Path) -> None:
    cells = [shade(0), shade(1)[:60], b"no picture", None, b"", shade(5, (3, 3)), shade(6)]
    write(tmp_path / "x.parquet", [row(at, image_data=cell) for at, cell in enumerate(cells)])
    data = open_data(f"commfor:{tmp_path}")
    for index in range(1, 6):
        with pytest.raises(InputError, match=rf"row {index} of '.*x\.parquet'"):
            data.load(index)
    assert [data.load(index).prompt for index in (0, 6)] == ["a cat 0", "a cat 6"]


def test_a_file_that_changes_later_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", [row(at) for at in range(3)])
    data = open_data(f"commfor:{tmp_path}")
    write(file, [row(0), row(1, label=None), row(2)])
    with pytest.raises(InputError, match="do not change the file"):
        data.load(1)
    file.unlink()
    with pytest.raises(InputError, match="download the file again"):
        pickle.loads(pickle.dumps(data)).load(2)


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", [row()])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow"):
        open_data(f"commfor:{tmp_path}")
