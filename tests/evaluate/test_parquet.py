"""Records as Parquet: the same records and the same table as JSON Lines, also for interrupted runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from refiner.data.samples import Sample
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import InputError, MissingExtraError, OutputError, UnreadableOutputError
from refiner.evaluate.harness import Run, Shard, collect, describe, merge, open_run
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.types import Analysis, Region, Size

COUNT = 150
"""More than a row group holds."""
SIZE = Size(32, 32)


class Shades:
    """Images of one shade each; one cannot be read."""

    def __init__(self) -> None:
        self.problems: list = []
        self.names = tuple(f"picture {number} \udcff" for number in range(COUNT))

    def load(self, index: int) -> Sample:
        if index == 77:
            raise InputError("Expected a whole image, got picture 77, which is damaged.")
        truth = Analysis(size=SIZE, regions=() if index % 3 else (flaw(index),), detector="truth")
        image = Image.new("RGB", tuple(SIZE), (index, 0, 0))
        return Sample(name=self.names[index], group=f"g{index % 2}", image=image, prompt="ein Bild", truth=truth)


def flaw(index: int) -> Region:
    from refiner.taxonomy import Category

    return Region(mask=None, box=(index % 9, 1, index % 9 + 7, 20), name="flaw", category=Category.TEXT)


def look(image: Image.Image) -> Analysis:
    return Analysis(size=SIZE, regions=(flaw(int(np.asarray(image)[0, 0, 0])),), detector="look")


def run(folder: Path, **options: object) -> Run:
    data, system = Shades(), Looker(detector=ScriptedDetector(options.pop("answer", look), name="look"))  # type: ignore[arg-type]
    description = describe("localization", data, {"specification": "shades"}, system, {})
    return collect(data, system, description, folder, **options)  # type: ignore[arg-type]


def table(done: Run) -> bytes:
    score(done)
    return (done.folder / "table.json").read_bytes() + (done.folder / "samples.csv").read_bytes()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "records" in path.name}


def untimed(done: Run) -> list[dict]:
    return [record | {"seconds": 0} for record in done.records]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with JSON Lines."""
    done = run(tmp_path_factory.mktemp("lines"))
    table(done)
    return done


def expected(lines: Run) -> bytes:
    return (lines.folder / "table.json").read_bytes() + (lines.folder / "samples.csv").read_bytes()


def test_records_and_table_are_those_of_json_lines(lines: Run, tmp_path: Path) -> None:
    done = run(tmp_path, records="parquet")
    assert files(tmp_path) == {"records.parquet"}
    assert untimed(done) == untimed(lines)
    assert {**done.records[149], "seconds": 0} == {**lines.records[149], "seconds": 0}
    with pytest.raises(KeyError):
        done.records[150]
    assert table(done) == expected(lines)
    assert table(open_run(tmp_path)) == expected(lines)


def test_other_tools_can_look_into_it(tmp_path: Path) -> None:
    run(tmp_path, records="parquet")
    found = parquet.read_table(tmp_path / "records.parquet")
    assert found.column_names == ["index", "name", "group", "prompt", "error", "record"]
    rows = found.to_pylist()
    assert [row["index"] for row in rows] == list(range(COUNT))
    assert rows[3]["name"] == "picture 3 ?"
    assert (rows[77]["error"], rows[77]["prompt"]) == ("InputError", None)
    assert (rows[4]["error"], rows[4]["prompt"]) == (None, "ein Bild")
    assert json.loads(rows[4]["record"])["name"] == "picture 4 \udcff"
    assert parquet.ParquetFile(tmp_path / "records.parquet").num_row_groups == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_run_cut_off_goes_on_and_becomes_parquet(lines: Run, tmp_path: Path, share: float) -> None:
    data = (lines.folder / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(data[: int(share * len(data))])
    (tmp_path / "run.json").write_bytes((lines.folder / "run.json").read_bytes())
    assert table(run(tmp_path, resume=True, records="parquet")) == expected(lines)
    assert files(tmp_path) == {"records.parquet"}


def test_a_run_cut_off_between_the_formats_goes_on(lines: Run, tmp_path: Path) -> None:
    run(tmp_path, records="parquet")
    (tmp_path / "records.jsonl").write_bytes((lines.folder / "records.jsonl").read_bytes()[:3000])
    (tmp_path / ".records.parquet.part").write_bytes(b"PAR1 half")
    assert table(open_run(tmp_path)) == expected(lines)
    assert table(run(tmp_path, resume=True, records="parquet")) == expected(lines)
    assert files(tmp_path) == {"records.parquet"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_failed_samples_of_a_parquet_run_are_tried_again(lines: Run, tmp_path: Path, kind: str) -> None:
    def mute(image: Image.Image) -> Analysis | Exception:
        odd = np.asarray(image)[0, 0, 0] % 2
        return UnreadableOutputError("Expected flaws, got babble.", raw="babble") if odd else look(image)

    done = run(tmp_path, records="parquet", answer=mute)
    assert score(done).table["errors"] == {"InputError": 1, "UnreadableOutputError": 74}
    again = run(tmp_path, records=kind, resume=True)
    assert table(again) == expected(lines)
    assert files(tmp_path) == {"records.parquet"} | ({"records.jsonl"} if kind == "jsonl" else set())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_of_either_format_merge_into_either(lines: Run, tmp_path: Path, kind: str) -> None:
    for number, each in enumerate(("parquet", "jsonl", "parquet"), 1):
        run(tmp_path / "parts", shard=Shard(number, 3), records=each)
    assert files(tmp_path / "parts") == {"records-1-of-3.parquet", "records-2-of-3.jsonl", "records-3-of-3.parquet"}
    joined = merge([tmp_path / "parts"], tmp_path / "parts", records=kind)  # type: ignore[arg-type]
    assert table(joined) == expected(lines)
    assert files(tmp_path / "parts") == {f"records.{kind}"}
    assert untimed(merge([tmp_path / "parts"], tmp_path / "copy", records="parquet")) == untimed(lines)


def test_a_folder_with_parquet_is_refused_without_resume(tmp_path: Path) -> None:
    run(tmp_path, records="parquet")
    with pytest.raises(ValueError, match="--resume"):
        run(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    run(tmp_path, records="parquet")
    file = tmp_path / "records.parquet"
    if damage == "foreign":
        import pyarrow

        parquet.write_table(pyarrow.table({"index": [1], "error": [None]}), file)
    else:
        file.write_bytes(file.read_bytes()[:-30] if damage == "cut" else b"")
    with pytest.raises(InputError, match=r"records\.parquet"):
        score(open_run(tmp_path))


def test_without_pyarrow_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"\.\[evaluate\]"):
        run(tmp_path / "new", records="parquet")
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_written_leaves_the_lines(lines: Run, tmp_path: Path) -> None:
    (tmp_path / ".records.parquet.part").mkdir()
    with pytest.raises(OutputError, match=r"records\.parquet"):
        run(tmp_path, records="parquet")
    (tmp_path / ".records.parquet.part").rmdir()
    assert table(open_run(tmp_path)) == expected(lines)
