"""``refiner data convert``: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.legion_folders import LAYOUTS, Layout, save_original

from refiner.cli import main
from refiner.data.sources import open_data


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


def pictures(root: Path, count: int = 3) -> Path:
    """A folder of images with a mask each."""
    for at in range(count):
        for folder, mode in (("1_fake", "RGB"), ("masks/1_fake", "L")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = Image.new(mode, (40, 30))
            image.paste((255,) * len(mode), (5, 5, 5 + 5 * at, 15))
            image.save(root / folder / f"{at}.png")
    return root


def convert(*arguments: object) -> int:
    return main(["data", "convert", *map(str, arguments)])


FILES = {
    "coco": {"annotations.json", "images"},
    "ms-swift": {"annotations.jsonl", "images"},
    "refiner": {"annotations.jsonl", "images"},
    "anomreason": {"anomalies.json", "descriptions.json", "dataset_split_list.json", "0_real", "1_fake"},
}


@pytest.mark.parametrize("to", FILES)
def test_a_data_set_is_converted_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    target = tmp_path / "new/target"
    assert convert("micro:9", target, "--to", to, "--limit", 4, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"] == {name: str(target / name) for name in FILES[to]}
    assert (document["images"], document["left_out"], document["problems"]) == (4, 0, {})
    assert document["regions"] >= 2
    assert {path.name for path in target.iterdir()} == FILES[to]
    assert len(list(target.rglob("*.png"))) == 4


def test_what_cannot_be_read_is_listed_and_the_rest_is_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, target = pictures(tmp_path / "source"), tmp_path / "target"
    (root / "1_fake/1.png").write_bytes(b"no picture")
    words = [{"Name": "paw", "Observed Phenomenon": "six toes", "Reasoning": "It has five.", "Severity Score": 25}]
    (tmp_path / "words.json").write_text(json.dumps({f"{at}.png": words for at in (1, 2)}))
    assert convert(root, target, "--to", "refiner", "--references", tmp_path / "words.json") == 0
    out, error = capsys.readouterr()
    assert f"{target}/annotations.jsonl: 1 images, 1 regions, 1 samples left out" in out
    for told in (
        "1_fake/1.png",
        "1_fake/0.png: the image has none; left out",
        "1 missing reference, 1 unreadable sample",
    ):
        assert told in error
    truth = open_data(f"fakexplained:{target}").load(0).truth
    assert truth is not None
    assert [(region.box, region.explanation) for region in truth.regions] == [((5, 5, 15, 15), "six toes")]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("micro-prompts:3", ["--to", "refiner"], "got none of 3"),
        ("micro:none", ["--to", "refiner"], "micro samples"),
        ("synthscars:nowhere", ["--to", "refiner"], "is not a folder"),
        ("nowhere", ["--to", "coco"], "is not a folder"),
        ("nowhere", ["--to", "refiner"], "check the path"),
        ("micro:3", ["--to", "coco", "--references", "words.json"], "no references"),
        ("owner/model", ["--to", "refiner", "--limit", "3"], "need a data set"),
        ("owner/model", ["--to", "refiner", "--references", "words.json"], "need a data set"),
        ("micro:3", ["--to", "refiner", "--limit", "0"], "at least 1"),
    ],
)
def test_what_is_no_data_set_is_refused_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, options: list[str], message: str
) -> None:
    try:
        code = convert(source, tmp_path / "target", *options)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "target").exists()


def test_a_folder_with_a_config_holds_weights_unless_it_is_called_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "source")
    assert convert(root, tmp_path / "1", "--to", "refiner") == 0
    (root / "config.json").write_text("{}")
    assert convert(root, tmp_path / "2", "--to", "refiner") == 2
    assert "LEGION" in capsys.readouterr().err
    assert convert(f"folder:{root}", tmp_path / "3", "--to", "refiner") == 0


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from refiner.cli.main import main
sys.exit(main(["data", "convert", "micro:100", sys.argv[1], "--to", "coco"]))
"""


def test_a_full_disk_is_said_in_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", FULL, str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Cannot write the file" in done.stderr
    assert "annotations.json" in done.stderr
    assert not (tmp_path / "target").exists()
