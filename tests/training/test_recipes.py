"""The table of recipes imports nothing heavy, recipes do not import each other, one command measures their models."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refiner import training
from refiner.hub import MICRO_WEIGHTS, read_card
from refiner.training import RECIPES
from refiner.training.measure import main
from refiner.training.recipes import load_recipe


def test_every_bundled_model_has_a_recipe_a_card_of_it_and_a_measure() -> None:
    recipes = [load_recipe(name) for name in RECIPES]
    assert [recipe.name for recipe in recipes] == list(RECIPES)
    bundled = [recipe for recipe in recipes if recipe.folder]
    assert {recipe.folder for recipe in bundled} == {path.parent.name for path in MICRO_WEIGHTS.glob("*/card.json")}
    for recipe in bundled:
        card = read_card(MICRO_WEIGHTS / recipe.folder)
        assert recipe.card is not None
        assert recipe.measure is not None
        assert card.name == recipe.card.name
        assert card.recipe.startswith(f"refiner train {recipe.name}")


def test_the_table_loads_nothing_heavy() -> None:
    code = "import sys, refiner.training; sys.exit(bool({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--list"], ["--list", "--json"], ["--help"]])
def test_the_recipes_are_listed_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from refiner.cli import main\n"
        "try:\n"
        "    code = main(['train', *sys.argv[1:]])\n"
        "except SystemExit as stopped:\n"
        "    code = stopped.code\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--json" in arguments:
        assert [row["name"] for row in json.loads(done.stdout)] == list(RECIPES)


@pytest.mark.parametrize("name", list(RECIPES))
def test_no_recipe_imports_the_folder_of_another(name: str) -> None:
    others = tuple(f"{row.target.rpartition('.')[0]}." for other, row in RECIPES.items() if other != name)
    for path in (Path(training.__file__).parent / name).glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [module for module in modules if module.startswith(others)], path.name


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
