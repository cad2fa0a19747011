"""``--device``, ``--dtype`` and ``--offload`` of every sub-command that loads models."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from refiner.cli.main import main

torch.set_num_threads(1)

TASKS = ("detection", "localization", "explanation", "realism", "refinement")
COMMANDS = {
    "refine": ("a red hand",), "detect": ("none.png",), "rank": ("a=/no/such", "--prompts", "none.json"),
    **{f"evaluate {task}": ("--data", "none", "--out", "o") for task in TASKS},
    "evaluate hps": ("--images", "none", "--prompts", "none.json"),
    "evaluate semap": ("--predictions", "none.json", "--references", "none.json"),
    "train": ("legion", "--data", "none"), "micro bench": ("--detector", "/no/such", "--out", "o"),
    "demo": ("--model", "/no/such"), "calibrate": ("micro", "--data", "none"),
}  # fmt: skip
"""Every sub-command that loads models, each with arguments that are wrong as soon as a file or model is looked for."""
OF_PIPELINES = ("refine", "rank", "evaluate refinement", "demo")
WITH_DTYPE = (*OF_PIPELINES, "calibrate", "detect", "micro bench", *(f"evaluate {task}" for task in TASKS[:-1]))

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a sub-command in ``tmp_path`` with its wrong arguments and further ones: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        try:
            code = main([*command.split(), *COMMANDS[command], *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_else(
    run: Cli, tmp_path: Path, command: str, device: str
) -> None:
    code, out, err = run(command, "--device", device)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"refiner: --device {device}: .+: .+\.\n", err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", WITH_DTYPE)
@pytest.mark.parametrize(("option", "value"), [("--dtype", "int8"), ("--offload", "everything")])
def test_a_value_that_does_not_exist_is_refused(run: Cli, command: str, option: str, value: str) -> None:
    code, _, err = run(command, option, value)
    assert code == 2
    assert option in err
    assert value in err


@pytest.mark.parametrize("command", OF_PIPELINES)
@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_nothing_is_offloaded_from_a_cpu(run: Cli, tmp_path: Path, command: str, offload: str) -> None:
    code, out, err = run(command, "--device", "cpu", "--offload", offload)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"refiner: --offload {offload}: .+: .+\.\n", err)
    assert not list(tmp_path.iterdir())


PLACED = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.types import Analysis, Size

def build(folder, device, dtype):
    told = f"{device} {dtype}"
    return ScriptedDetector(lambda image: Analysis(size=Size(image.height, image.width), raw=told, detector=told), told)
"""


@pytest.fixture
def placed(write_plugin: Callable[[Path, str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of a detector that is named after the device and dtype that it is loaded with."""
    name = write_plugin(tmp_path / "plugin", "placed_for_tests", PLACED)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.delitem(sys.modules, "placed_for_tests", raising=False)
    monkeypatch.chdir(tmp_path)
    return name


def test_the_detector_is_loaded_as_named(placed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data/a.png")
    named = ("--detector", placed, "--device", "cpu", "--dtype", "bfloat16", "--json")
    assert main(["evaluate", "realism", "--data", "data", "--out", "o", *named]) == 0
    assert json.loads(capsys.readouterr().out)["system"]["detector"] == "cpu torch.bfloat16"
    assert main(["detect", "data/a.png", *named]) == 0


def test_the_pipeline_has_the_dtype_and_the_detector_its_own(placed: str, model: str, tmp_path: Path) -> None:
    named = ("--detector", placed, "--device", "cpu", "--dtype", "bfloat16")
    assert main(["refine", "a red hand", "--model", model, "--rounds", "0", "--out", "o", *named]) == 0
    settings = json.loads((tmp_path / "o/run.json").read_text())["settings"]
    assert (settings["pipeline"]["dtype"], settings["pipeline"]["device"]) == ("bfloat16", "cpu")
    assert settings["detector"]["name"] == "cpu None"


def test_generators_have_the_dtype_and_records_name_it(placed: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red hand\n")
    named = ("--detector", placed, "--device", "cpu", "--out", "o")
    assert main(["rank", f"a={model}", "--prompts", "p.txt", "--dtype", "float32", *named]) == 0
    assert json.loads((tmp_path / "o/a/run.json").read_text())["system"]["dtype"] == "float32"
    assert main(["rank", f"a={model}", "--prompts", "p.txt", "--dtype", "bfloat16", "--resume", *named]) == 2
