"""An error names arguments in Python, and options on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from refiner.cli.main import main
from refiner.cli.wording import in_option_words
from refiner.errors import RefinerError
from refiner.pipelines import RefinedPipeline

OPTIONS = {"detector", "judge", "rounds", "max_rows", "seed"}


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("pass detector=, such as its id.", "pass --detector, such as its id."),
        ("such as detector='a/b'.", "such as --detector 'a/b'."),
        ("pass judge=micro or judge=.", "pass --judge micro or --judge."),
        ("RefineConfig.max_rounds must be", "--rounds must be"),
        ("RefineConfig.max_denoiser_rows must be", "--max-rows must be"),
        ("RefineConfig.dilate must be", "RefineConfig.dilate must be"),
        ("pass inpainter=.", "pass inpainter=."),
        ("the id 'vlm:a/b,detector=x' has", "the id 'vlm:a/b,detector=x' has"),
        ("got 'seed=3': omit it", "got 'seed=3': omit it"),
    ],
)
def test_only_options_of_the_command_are_written_as_such(message: str, written: str) -> None:
    assert in_option_words(message, OPTIONS) == written


@pytest.fixture
def plain(model: str, tmp_path: Path) -> str:
    """A pipeline without saved settings."""
    shutil.copytree(model, tmp_path / "plain")
    (tmp_path / "plain" / "refiner.json").unlink()
    return str(tmp_path / "plain")


@pytest.mark.parametrize(
    ("saved", "call", "arguments", "argument", "option"),
    [
        ({}, {}, [], "pass detector=,", "pass --detector,"),
        ({"detector": "vlm:m@http://far.example/v1"}, {}, [], "pass detector='vlm", "pass --detector 'vlm"),
        ({"judge": "burden:vlm:m@http://far.example/v1"}, {}, [], "pass judge='burden", "pass --judge 'burden"),
        (
            {}, {"detector": "micro", "judge": None, "max_rounds": -1}, ["--detector", "micro", "--rounds", "-1"],
            "RefineConfig.max_rounds must", "--rounds must",
        ),
    ],
)  # fmt: skip
def test_python_says_arguments_and_the_command_line_says_options(
    plain: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    saved: dict[str, Any],
    call: dict[str, Any],
    arguments: list[str],
    argument: str,
    option: str,
) -> None:
    if saved:
        (Path(plain) / "refiner.json").write_text(json.dumps({"format": 1, "config": {}, **saved}))
    given = {name: value for name, value in call.items() if name in ("detector", "judge")}
    rest = {name: value for name, value in call.items() if name not in given}
    with pytest.raises(RefinerError) as caught:
        RefinedPipeline.from_pretrained(plain, **given).stream("a hand", **rest)
    assert argument in str(caught.value)
    assert main(["refine", "a hand", "--model", plain, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert option in capsys.readouterr().err
