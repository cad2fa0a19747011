"""``refiner data convert``: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.legion_folders import LAYOUTS, Layout, save_original

from refiner.cli import main


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_folder_is_listed_and_loads_in_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: Layout
) -> None:
    source, target = save_original(tmp_path / "source", layout), tmp_path / "new" / "target"
    assert main(["data", "convert", str(source), str(target), "--to", "refiner", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == set(files)
    assert json.loads((target / "config.json").read_text())["model_type"] == "refiner_legion"


@pytest.mark.parametrize("arguments", [["nowhere"], ["{source}", "--to", "diffusers"]])
def test_what_cannot_be_converted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    source = save_original(tmp_path / "source")
    rest = [argument.format(source=source) for argument in arguments[1:]] or ["--to", "refiner"]
    first = arguments[0].format(source=source)
    try:
        code = main(["data", "convert", first, str(tmp_path / "target"), *rest])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert not (tmp_path / "target").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_shard_is_named_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_original(tmp_path / "source")
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    assert main(["data", "convert", str(source), str(tmp_path / "target"), "--to", "refiner"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "missing: download it again." in error
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
