"""From records to figures: what is measured in each task of ``refiner evaluate``.

A task turns each record into a row of numbers, without any model, and the columns of all rows into the table's figures.
Columns are float64 with NaN where a sample has no such number; those without any number are left out. The order of the
rows is that of the data set, so that sums come out the same to the last bit however the records were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from refiner.errors import ConfigError
from refiner.evaluate.figures import Task, Unreadable
from refiner.evaluate.tasks.detection import Detection
from refiner.evaluate.tasks.explanation import Explanation
from refiner.evaluate.tasks.localization import Localization
from refiner.evaluate.tasks.realism import Realism
from refiner.evaluate.tasks.refinement import Refinement
from refiner.files import Json
from refiner.metrics.boxes import RegionRule
from refiner.metrics.heatmaps import HeatmapConfig
from refiner.metrics.semap_scoring import SemapConfig

__all__ = ["TASKS", "build_task"]

_BUILDERS: Final[Mapping[str, Callable[[Json, Json], Task]]] = MappingProxyType(
    {
        "detection": lambda _system, scoring: Detection(threshold=scoring["threshold"]),
        "localization": lambda _system, scoring: Localization(
            heatmap=HeatmapConfig(stretch=scoring.get("stretch", "minmax")),
            region=_region(scoring),
            unreadable=_unreadable(scoring),
        ),
        "explanation": lambda system, scoring: Explanation(
            config=_semap(scoring),
            encoder=system["encoder"],
            sentences=system["sentences"],
            threshold=scoring.get("threshold", 0.5),
            region=_region(scoring),
            unreadable=_unreadable(scoring),
        ),
        "realism": lambda _system, _scoring: Realism(),
        "refinement": lambda system, scoring: Refinement(semap=_semap(scoring), encoder=system["encoder"]),
    }
)

TASKS: Final = tuple(_BUILDERS)


def _semap(scoring: Json) -> SemapConfig:
    return SemapConfig(view=scoring["view"])


def _region(scoring: Json) -> RegionRule:
    rule: RegionRule = scoring.get("region", "union")
    return rule


def _unreadable(scoring: Json) -> Unreadable:
    rule: Unreadable = scoring.get("unreadable", "miss")
    return rule


def build_task(name: str, system: Json, scoring: Json) -> Task:
    """The task of a run, by the parts ``system`` and ``scoring`` of its ``run.json``.

    Raises:
        ConfigError: there is no such task, or a setting is out of its range.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"Expected a task of {', '.join(TASKS)}; got {name!r}: name one of these.")
    return _BUILDERS[name](system, scoring)
