"""Every benchmark starts as ``make bench`` starts it, and the page of what was measured speaks of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "benchmarks"
BENCHMARKS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_starts_without_the_folder_of_scripts_on_the_path(name: str) -> None:
    command = [sys.executable, str(FOLDER / name), "--help"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_page_of_what_was_measured_names_every_benchmark_and_no_other() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {*re.findall(r"tests/benchmarks/(\w+\.py)", page)} == {*BENCHMARKS}


def test_the_makefile_runs_all_but_what_needs_a_question_or_hours() -> None:
    run = re.findall(r"tests/benchmarks/(\w+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert {*BENCHMARKS} - {*run} == {"settings.py", "fakexplain.py", "xaigd.py", "aligngemini.py"}
