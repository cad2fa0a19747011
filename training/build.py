"""Train all bundled models again: ``refiner micro build``.

Each model is one run that can be stopped and resumed. Its checkpoints are in ``runs/RECIPE``. The finished model goes
to ``refiner/micro/weights``.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from refiner.training import RECIPES
from refiner.training.recipes import finish, load_recipe, plain
from refiner.training.runs import Run, open_run, stored_config


def build(runs: Path, out: Path, console: Console | None = None) -> None:
    """Train every bundled model in the order of ``RECIPES``. Runs that exist in ``runs`` are resumed.

    The finished models go to ``out``. Later models start from earlier ones in it.
    """
    for name in RECIPES:
        recipe = load_recipe(name)
        if not recipe.folder:
            continue
        settings, place = recipe.micro(), runs / name
        run = Run(folder=place, weights=out, console=console)
        config = {"recipe": name, "data": None, "dtype": None, "settings": plain(settings)}
        open_run(place, config, resume=stored_config(place) is not None)
        recipe.train(settings, None, run, out / recipe.folder)
        finish(recipe, settings, out / recipe.folder, {})  # the measurement loads the model, which needs a card
        if recipe.measure is not None:
            finish(recipe, settings, out / recipe.folder, recipe.measure(out / recipe.folder, run, recipe.measured))
