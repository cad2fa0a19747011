"""Recipes learn the same as before: short runs give the stored losses in every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.trajectories import SHORT, STORED, follow

STORED_RUNS = json.loads(STORED.read_text(encoding="utf-8"))


def test_every_short_run_is_stored() -> None:
    assert set(STORED_RUNS) == set(SHORT)


@pytest.mark.parametrize("name", list(SHORT))
def test_a_short_run_gives_the_stored_losses(name: str, tmp_path: Path) -> None:
    """The digests of weights are not compared: they are equal only on the machine that wrote the file."""
    got, stored = follow(name, tmp_path / name), STORED_RUNS[name]
    assert [(row["stage"], row["step"]) for row in got["log"]] == [(row["stage"], row["step"]) for row in stored["log"]]
    for row, wanted in zip(got["log"], stored["log"], strict=True):
        figures = {key: value for key, value in wanted.items() if key not in ("stage", "step")}
        assert {key: row[key] for key in figures} == pytest.approx(figures, rel=1e-5), row["stage"]
