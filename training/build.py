"""Every bundled weight, made again: ``refiner micro build``.

Each part is one run that can be stopped and resumed: its checkpoints lie in ``runs/RECIPE``, and the finished folder
goes to ``refiner/micro/weights``.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from refiner.training import RECIPES
from refiner.training.recipes import finish, load_recipe, plain
from refiner.training.runs import Run, open_run, stored_config


def build(runs: Path, out: Path, console: Console | None = None) -> None:
    """Every bundled part in the order of ``RECIPES``, from nothing or from where ``runs`` stopped.

    Args:
        runs: folder of the runs.
        out: folder of the finished parts; later ones start from earlier ones there.
        console: where progress is shown; None: standard output.
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
        finish(recipe, settings, out / recipe.folder, {})  # bundled weights do not load without a card
        if recipe.measure is not None:
            finish(recipe, settings, out / recipe.folder, recipe.measure(out / recipe.folder, run, recipe.measured))
