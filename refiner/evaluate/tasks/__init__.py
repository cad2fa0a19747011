"""From records to figures: what each task of ``refiner evaluate`` measures.

A task turns each record into a row of numbers, without any model, and the columns of all rows into the table's figures.
Columns are float64, NaN if a sample has no such number; a column without any number is left out. Rows are in the order
of the data set, so that sums are equal to the last bit however the records were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from refiner.errors import ConfigError
from refiner.evaluate.figures import Task
from refiner.evaluate.tasks.checklist import Checklist
from refiner.evaluate.tasks.defects import Defects
from refiner.evaluate.tasks.detection import Detection
from refiner.evaluate.tasks.explanation import Explanation
from refiner.evaluate.tasks.localization import Localization
from refiner.evaluate.tasks.realism import Realism
from refiner.evaluate.tasks.refinement import Refinement
from refiner.evaluate.tasks.text import Text
from refiner.files import Json
from refiner.metrics.heatmaps import HeatmapConfig
from refiner.metrics.sdg import SdgConfig
from refiner.metrics.semap_scoring import SemapConfig

__all__ = ["TASKS", "build_task"]

_BUILDERS: Final[Mapping[str, Callable[[Json, Json], Task]]] = {
    "detection": lambda _system, scoring: Detection(
        threshold=scoring["threshold"], heatmap=HeatmapConfig(stretch=scoring.get("stretch", "minmax"))
    ),
    "localization": lambda _system, scoring: Localization(
        heatmap=HeatmapConfig(stretch=scoring.get("stretch", "minmax")),
        region=scoring.get("region", "union"),
        unreadable=scoring.get("unreadable", "miss"),
    ),
    "defects": lambda system, scoring: Defects(
        config=SdgConfig(matching=scoring.get("matching", "hungarian")),
        descriptions=system.get("descriptions"),
        unreadable=scoring.get("unreadable", "miss"),
    ),
    "explanation": lambda system, scoring: Explanation(
        config=SemapConfig(view=scoring["view"]),
        encoder=system["encoder"],
        sentences=system["sentences"],
        threshold=scoring.get("threshold", 0.5),
        region=scoring.get("region", "union"),
        unreadable=scoring.get("unreadable", "miss"),
    ),
    "checklist": lambda _system, _scoring: Checklist(),
    "text": lambda _system, _scoring: Text(),
    "realism": lambda _system, _scoring: Realism(),
    "refinement": lambda system, scoring: Refinement(
        semap=SemapConfig(view=scoring["view"]), encoder=system["encoder"]
    ),
}

TASKS: Final = tuple(_BUILDERS)


def build_task(name: str, system: Json, scoring: Json) -> Task:
    """The task of a run, from the parts ``system`` and ``scoring`` of its ``run.json``.

    Raises:
        ConfigError: there is no such task, or a setting is out of its range.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"Expected one of the tasks {', '.join(TASKS)}, got {name!r}: choose one of them.")
    return _BUILDERS[name](system, scoring)
