"""``refiner evaluate refinement --peers``: refiner, LEGION's controllers and no refinement side by side."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from refiner.cli.main import main

torch.set_num_threads(1)

PLUGIN = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    pixels = np.asarray(image)[..., 1]
    bright = pixels > np.median(pixels) + 8
    mask = np.zeros(bright.shape, dtype=bool)
    mask[8:24, 8:24] = bright[8:24, 8:24]
    if not mask.any():
        return Analysis(size=Size(*mask.shape), detector="bright")
    region = Region(mask=mask, box=(8, 8, 24, 24), name="hand", category=Category.ANATOMY, severity=float(mask.mean()))
    return Analysis(size=Size(*mask.shape), detector="bright", regions=(region,))

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="bright")
"""
NAMES = ["none", "refiner", "legion-inpaint", "legion-regenerate"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(
    write_plugin: Callable[[Path, str, str], str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Run ``refiner evaluate`` with further arguments: exit code, stdout, stderr."""
    home = tmp_path / "plugin"
    detector = write_plugin(home, "bright_for_peers", PLUGIN)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "bright_for_peers", raising=False)
    (tmp_path / "p.txt").write_text("a red hand\na green clock\na blue cat\n")
    models = ("--model", model, "--detector", detector, "--judge", "micro", "--steps", "2", "--rounds", "1")
    data = ("refinement", "--data", f"prompts:{tmp_path / 'p.txt'}", *models)

    def run(*arguments: object) -> tuple[int, str, str]:
        words = arguments if arguments[0] in ("merge", "refinement") else (*data, *arguments)
        code = main(["evaluate", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def whole(evaluate: Cli, tmp_path: Path) -> tuple[Path, str]:
    """Folder and printed document of a run."""
    code, out, err = evaluate("--peers", "--out", tmp_path / "whole", "--json")
    assert code == 0, err
    return tmp_path / "whole", out


def starting_image(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_every_system_starts_from_the_same_images_and_no_refinement_grows_by_0(whole: tuple[Path, str]) -> None:
    folder, out = whole
    document = json.loads(out)
    assert document == json.loads((folder / "peers.json").read_text())
    assert list(document["runs"]) == NAMES
    assert (document["samples"], document["compared"]) == (3, 3)
    starts = [[starting_image(path) for path in sorted((folder / name).rglob("*-00.png"))] for name in NAMES]
    assert starts[0] == starts[1] == starts[2] == starts[3]
    assert len(starts[0]) == 3
    none, ours, inpaint, regenerate = (run["figures"] for run in document["runs"].values())
    assert len({figures["par_before"] for figures in (none, ours, inpaint, regenerate)}) == 1
    for name in ("hps", "par"):  # the judge's products of one image are rounded differently in other batches
        for figures in (ours, inpaint, regenerate):
            assert figures[f"{name}_before"] == pytest.approx(none[f"{name}_before"], rel=1e-6)
        assert none[f"{name}_after"] == none[f"{name}_before"]
        assert none[f"{name}_growth"] in (0.0, None)
        for figures in (ours, inpaint, regenerate):
            before, after = figures[f"{name}_before"], figures[f"{name}_after"]
            growth = pytest.approx(100 * (after - before) / abs(before)) if before else None
            assert figures[f"{name}_growth"] == growth
    assert (none["hps_growth"], none["hps_growth_low"], none["hps_growth_high"]) == (0.0, None, None)
    assert ours["hps_after"] >= ours["hps_before"]
    assert len({run["signature"] for run in document["runs"].values()}) == 1
    assert none["detector_calls"] == 1 < regenerate["detector_calls"]


def test_each_is_an_ordinary_run_with_its_own_settings(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    for name in NAMES:
        assert {path.name for path in (folder / name).iterdir()} >= {"records.jsonl", "report.html", "pictures"}
        made = json.loads((folder / name / "run.json").read_text())["system"]["refiner"]
        rounds = {"none": 0, "refiner": 1, "legion-inpaint": 3, "legion-regenerate": 2}[name]
        assert (made["peer"], made["max_rounds"]) == (name, rounds)
        assert made["config"]["keep"] == ("last" if name.startswith("legion") else "best")
        assert made["call"]["num_inference_steps"] == 2
        for line in (folder / name / "records.jsonl").read_text().splitlines():
            answer = json.loads(line)["answer"]
            if name.startswith("legion"):
                assert answer["best"] == answer["last"]
    with (folder / "peers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == NAMES
    page = (folder / "peers.md").read_text()
    assert "| HPS growth, % | +0.00 |" in page
    assert "LEGION's two controllers verify nothing and keep the last image" in page


def test_it_is_resumed_sharded_merged_and_scored_again_with_the_same_table(
    evaluate: Cli, whole: tuple[Path, str], tmp_path: Path
) -> None:
    folder, out = whole
    records = folder / "legion-inpaint/records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text(lines[0])
    assert evaluate("--peers", "--out", folder, "--resume", "--json")[1] == out
    assert [json.loads(line)["answer"] for line in records.read_text().splitlines()] == [
        json.loads(line)["answer"] for line in lines
    ]
    assert evaluate("refinement", "--rescore", "--out", folder, "--json")[1] == out
    for number in (1, 2):
        assert evaluate("--peers", "--out", tmp_path / "parts", "--shard", f"{number}/2")[0] == 0
    joined = evaluate("merge", tmp_path / "parts", "--out", tmp_path / "parts", "--json")[1]
    assert json.loads(joined) == json.loads(out)
    code, shown, _ = evaluate("merge", folder, "--out", tmp_path / "again")
    assert code == 0
    assert "legion-regenerate" in shown
    code, _, err = evaluate("--peers", "--out", folder, "--resume", "--seed", "4")
    assert code == 2
    assert "Expected records of this system" in err


def test_a_sample_that_one_system_lost_is_compared_for_none(evaluate: Cli, whole: tuple[Path, str]) -> None:
    folder, _ = whole
    records = folder / "legion-regenerate/records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows[1] |= {"answer": None, "error": {"kind": "BadImageError", "detail": "Black."}}
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, again, err = evaluate("refinement", "--rescore", "--out", folder, "--json")
    assert code == 1
    assert "legion-regenerate: " in err
    document = json.loads(again)
    assert document["compared"] == 2
    assert document["runs"]["none"]["scored"] == 3
    kept = [json.loads(line) for line in (folder / "none/records.jsonl").read_text().splitlines()]
    scores = [row["answer"]["before"]["score"] for row in kept if row["name"] != rows[1]["name"]]
    assert document["runs"]["none"]["figures"]["hps_before"] == pytest.approx(sum(scores) / 2)


def test_a_table_without_the_control_is_refused(evaluate: Cli, whole: tuple[Path, str]) -> None:
    folder, _ = whole
    (folder / "none/run.json").unlink()
    code, out, err = evaluate("refinement", "--rescore", "--out", folder)
    assert (code, out) == (2, "")
    assert err.startswith("refiner: The run without refinement is missing among refiner, legion-inpaint, ")
