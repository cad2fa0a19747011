"""Training: one folder for each recipe, one loop for all.

``RECIPES`` is the table that ``refiner train`` reads; a recipe is added by one row. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "generator": "refiner.training.generator.recipe:RECIPE",
        "inpainter": "refiner.training.inpainter.recipe:RECIPE",
        "preference": "refiner.training.preference.recipe:RECIPE",
        "legion": "refiner.training.legion.recipe:RECIPE",
        "probe": "refiner.training.probe.recipe:RECIPE",
        "vlm": "refiner.training.vlm.recipe:RECIPE",
        "instruct": "refiner.training.instruct.recipe:RECIPE",
    }
)
"""Name -> "module:attribute" of its ``Recipe``, in the order in which ``refiner micro build`` needs them."""
