"""``refiner refine --prompts``: many prompts, in batches that are the same in every run, also after a stop."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from support.chat_servers import settle_environment  # noqa: E402
from support.faulty_server import FaultyServer  # noqa: E402
from support.repairs import NOISE  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner.cli.main import main  # noqa: E402
from refiner.evaluate import refining  # noqa: E402
from refiner.evaluate.records import Records  # noqa: E402
from refiner.evaluate.refining import folder_name  # noqa: E402
from refiner.images import load_image  # noqa: E402

pytestmark = NOISE
PROMPTS = [f"a hand and {number} clocks" for number in range(10)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    settle_environment(monkeypatch)
    started = FaultyServer(latency=0.001, late=1, share=0)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS), encoding="utf-8")
    return file


def command(model: Path, server: FaultyServer, prompts: Path, out: Path, *options: object) -> list[str]:
    detector = f"vlm:Qwen3-VL@{server.url},grounder=box"
    models = ["--model", str(model), "--detector", detector]
    own = ["--prompts", str(prompts), "--out", str(out), "--steps", "2", "--rounds", "2", "--batch-images", "4"]
    return ["refine", *models, *own, *map(str, options)]


def files(out: Path) -> dict[str, Any]:
    """What a run wrote, without what differs between equal runs: times and the machine."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if file.suffix == ".png":
            found[name] = load_image(file).tobytes()
        elif file.name == "run.json":
            found[name] = {key: value for key, value in json.loads(file.read_text()).items() if key != "environment"}
        elif file.name == "images.csv":
            found[name] = [{**row, "seconds": ""} for row in csv.DictReader(file.read_text().splitlines())]
        elif file.suffix == ".html" or file.name == "refinements.json":
            found[name] = file.read_text()
    return found


def test_each_prompt_gets_its_images_and_a_row(
    model: Path, server: FaultyServer, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(model, server, prompts, out, "--json")) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["prompts"], table["done"], table["missing"], table["errors"]) == (10, 10, 0, {})
    assert table["better"] > 0
    assert set(table["figures"]) == {"flaws", "burden"}
    for figure in table["figures"].values():
        assert figure["images"] == 10
        assert figure["low"] < figure["change"] < figure["high"]
        assert figure["change"] < 0
    folders = sorted((out / "images").iterdir())
    assert [folder.name for folder in folders] == [f"{number:05d}" for number in range(10)]
    assert all({file.name for file in folder.iterdir()} == {"start.png", "best.png", "run.json"} for folder in folders)
    assert [json.loads((folder / "run.json").read_text())["prompt"] for folder in folders] == PROMPTS
    assert [row["prompt"] for row in csv.DictReader((out / "images.csv").read_text().splitlines())] == PROMPTS
    assert len({load_image(folder / "start.png").tobytes() for folder in folders}) == 10


@pytest.mark.parametrize("saved", [1, 4, 6])
def test_a_run_that_was_stopped_goes_on_to_the_same_files(
    model: Path, server: FaultyServer, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    straight, again = tmp_path / "straight", tmp_path / "again"
    assert main(command(model, server, prompts, straight)) == 0
    left, inner = iter(range(saved)), refining.save_result

    def save(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return inner(*args, **options)

    monkeypatch.setattr(refining, "save_result", save)
    assert main(command(model, server, prompts, again)) == 130
    monkeypatch.setattr(refining, "save_result", inner)
    assert main(command(model, server, prompts, again)) == 2, "without --resume nothing is overwritten"
    assert main(command(model, server, prompts, again, "--resume")) == 0
    expected, found = files(straight), files(again)
    for each in (expected, found):
        each["contact/index.html"] = each["contact/index.html"].replace(">again<", ">straight<")
        each["run.json"]["system"]["refiner"].pop("detector", None)
    assert found == expected


def test_records_that_were_lost_within_a_batch_are_made_again_with_the_same_neighbours(
    model: Path, server: FaultyServer, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(command(model, server, prompts, out)) == 0
    expected, records = files(out), out / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:2] + lines[3:9]) + lines[9][:20])
    assert main(command(model, server, prompts, out, "--resume")) == 0
    assert files(out) == expected
    assert sorted(record["index"] for record in Records([records])) == list(range(10))


def test_a_prompt_that_cannot_be_used_costs_only_itself(
    server: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "prompts.json", tmp_path / "out"
    good = "a red hand with five fingers on a sky background"
    file.write_text(json.dumps({"good": good, "<script>alert(1)</script>": "a red unicorn", "blank": " "}))
    own = ["--prompts", str(file), "--out", str(out), "--steps", "2", "--rounds", "0"]
    assert main(["refine", *own]) == 1
    said = capsys.readouterr()
    assert "not 'unicorn'" in said.err
    assert "Traceback" not in said.err
    table = json.loads((out / "refinements.json").read_text())
    assert (table["done"], table["errors"]) == (1, {"InputError": 1})
    page = (out / "contact/index.html").read_text()
    assert "<script>alert" not in page
    assert "a red unicorn" in page
    assert [folder.name for folder in (out / "images").iterdir()] == ["good"]


def test_several_images_of_each_prompt_in_whole_folders(model: Path, server: FaultyServer, tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.csv", tmp_path / "out"
    file.write_text("file,prompt\nfirst.png,a hand\nsecond.png,a cat\n")
    assert main(command(model, server, file, out, "--num-images", 2, "--files", "all")) == 0
    names = [f"{name}.png-{number:02d}" for name in ("first", "second") for number in range(2)]
    assert sorted(folder.name for folder in (out / "images").iterdir()) == names
    assert {"report.html", "sheet.png", "attempt-00.png"} <= {
        file.name for file in (out / "images" / names[0]).iterdir()
    }


@pytest.mark.parametrize(
    "name", ["../../outside", "/etc/passwd", "..", ".", "a/b", "x" * 300, "ü", "con:1", "a b", "-x"]
)
def test_names_of_prompts_stay_inside_the_folder(name: str) -> None:
    folder = folder_name(name)
    assert Path(folder).name == folder
    assert folder not in (".", "..")
    assert len(folder) <= 80
    assert folder.isascii()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the following arguments are required: prompt"),
        (["a hand", "--prompts", "x.txt"], "--prompts cannot be used with a prompt"),
        (["--prompts", "x.txt", "--image", "x.png"], "--prompts cannot be used with --image"),
        (["a hand", "--resume"], "--resume, --engine and --workers need --prompts"),
        (["--prompts", "missing.txt"], "missing.txt"),
    ],
)
def test_refusals(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["refine", *given, "--out", str(tmp_path / "out")])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_two_names_that_differ_in_case_only_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"cat": "a cat", "Cat": "a cat"}))
    assert main(["refine", "--prompts", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "Two prompts have the name 'cat'" in capsys.readouterr().err


def test_a_run_stops_after_failures_in_a_row(
    model: Path, server: FaultyServer, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.share, server.faults = 1.0, ("prose",)
    assert main(command(model, server, prompts, tmp_path / "out", "--max-failures", 2)) == 1
    assert "stopped: the model failed on 2 images in a row" in capsys.readouterr().err
    table = json.loads((tmp_path / "out/refinements.json").read_text())
    assert table["errors"] == {"ModelError": 4}
    assert table["missing"] == 6


def test_ray_makes_the_same_files(model: Path, server: FaultyServer, prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    local, spread = tmp_path / "local", tmp_path / "spread"
    assert main(command(model, server, prompts, local)) == 0
    assert main(command(model, server, prompts, spread, "--engine", "ray", "--workers", 2)) == 0
    expected, found = files(local), files(spread)
    assert {name: value for name, value in found.items() if name.startswith("images/")} == {
        name: value for name, value in expected.items() if name.startswith("images/")
    }
    assert found["refinements.json"] == expected["refinements.json"]
