"""Models are measured by their recipes, in one way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from refiner.hub import MICRO_WEIGHTS, read_card
from refiner.training import RECIPES
from refiner.training.measure import main
from refiner.training.recipes import load_recipe


def test_every_bundled_model_has_a_recipe_a_card_of_it_and_a_measure() -> None:
    recipes = [load_recipe(name) for name in RECIPES]
    assert {recipe.folder for recipe in recipes} == {path.parent.name for path in MICRO_WEIGHTS.glob("*/card.json")}
    for recipe in recipes:
        card = read_card(MICRO_WEIGHTS / recipe.folder)
        assert recipe.card is not None
        assert recipe.measure is not None
        assert card.name == recipe.card.name
        assert card.recipe.startswith(f"refiner train {recipe.name}")


def test_the_scores_are_printed_and_written_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "instruct"
    shutil.copytree(MICRO_WEIGHTS / "instruct", folder)
    assert main(["instruct", str(folder), "--count", "2", "--card"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) == {"used", "as_taught"}
    assert read_card(folder).scores == scores


def test_a_bad_count_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["instruct", str(tmp_path), "--count", "0"]) == 2
    assert "--count" in capsys.readouterr().err
