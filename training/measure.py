"""Measure a model of the micro world on held-out samples: ``python -P -m refiner.training.measure RECIPE FOLDER``.

Each recipe says what is measured, and how many samples of each sort the card of the bundled model is about.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from refiner.errors import ConfigError, UserError
from refiner.hub import MICRO_WEIGHTS
from refiner.training import RECIPES
from refiner.training.recipes import finish, load_recipe
from refiner.training.runs import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores as JSON; 2 where the user has to change something."""
    parser = argparse.ArgumentParser(prog="python -P -m refiner.training.measure", description="Measure a model.")
    parser.add_argument("recipe", choices=list(RECIPES), help="that made the model, or one like it")
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--count", type=int, help="held-out samples of each sort (those of the bundled model's card)")
    parser.add_argument("--weights", type=Path, default=MICRO_WEIGHTS, help="where the bundled models lie")
    parser.add_argument("--card", action="store_true", help="write the scores to the folder's card.json")
    args = parser.parse_args(argv)
    recipe = load_recipe(args.recipe)
    try:
        if recipe.measure is None:
            raise ConfigError(f"The recipe {recipe.name} has no measure of its own: use refiner evaluate.")
        if args.count is not None and args.count < 1:
            raise ConfigError(f"Expected a --count of at least 1, got {args.count}: choose more.")
        run = Run(folder=args.folder.parent, weights=args.weights)
        scores = recipe.measure(args.folder, run, args.count or recipe.measured)
        if args.card:
            finish(recipe, recipe.micro(), args.folder, scores)
    except UserError as error:
        print(f"refiner: {error}", file=sys.stderr)
        return 2
    print(json.dumps(scores, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
