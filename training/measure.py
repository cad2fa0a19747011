"""Measure a model of the micro world on held-out samples: ``python -P -m refiner.training.measure RECIPE FOLDER``.

Each recipe defines what is measured, and the number of samples of each kind for the bundled model's card.
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
    """Print the scores as JSON. Returns 0: done; 2: the user must change something."""
    parser = argparse.ArgumentParser(prog="python -P -m refiner.training.measure", description="Measure a model.")
    parser.add_argument("recipe", choices=list(RECIPES), help="the recipe that trained the model, or one like it")
    parser.add_argument("folder", type=Path, help="folder of the model")
    parser.add_argument("--count", type=int, help="held-out samples of each kind (as for the bundled model's card)")
    parser.add_argument("--weights", type=Path, default=MICRO_WEIGHTS, help="folder of the bundled models")
    parser.add_argument("--card", action="store_true", help="write the scores to the folder's card.json")
    args = parser.parse_args(argv)
    recipe = load_recipe(args.recipe)
    try:
        if recipe.measure is None:
            raise ConfigError(f"The recipe {recipe.name} has no measurement: use refiner evaluate.")
        if args.count is not None and args.count < 1:
            raise ConfigError(f"Expected a --count of at least 1, got {args.count}: choose a larger number.")
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
