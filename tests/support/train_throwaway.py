"""The command ``refiner`` with the throwaway recipe in its table, for processes that a test starts."""

from __future__ import annotations

import sys

from refiner import training
from refiner.cli import main
from support.throwaway_recipe import ROW

training.RECIPES = {**training.RECIPES, **ROW}

if __name__ == "__main__":
    sys.exit(main())
