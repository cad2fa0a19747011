"""``refiner.json``: the file that a saved RefinedPipeline adds to an ordinary diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import WeightsError
from refiner.files import atomic_write, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.pipelines.config import RefineConfig
from refiner.reading import reason_of

SETTINGS_FILE = "refiner.json"
_FORMAT = 1
PARTS = ("detector", "judge", "reviser", "inpainter", "second_stage", "editor")
"""Parts that can be stored by their ids."""


@dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """The content of ``refiner.json``: the arguments of ``RefinedPipeline``, with the ids or folders of its parts.

    A folder that begins with "./" lies inside the pipeline's folder. Without ``detector``, the user must pass one.
    """

    detector: str | None = None
    judge: str | list[str] | None = None
    reviser: str | None = None
    config: RefineConfig = field(default_factory=RefineConfig)
    call: Mapping[str, Any] = field(default_factory=dict)
    inpainter: str | None = None
    inpaint_call: Mapping[str, Any] = field(default_factory=dict)
    second_stage: str | None = None
    editor: str | None = None
    edit_call: Mapping[str, Any] = field(default_factory=dict)
    native: int | None = None

    def write(self, folder: str | Path) -> None:
        """Write ``refiner.json``; raises OutputError if it cannot be written.

        Of the config, only values that differ from the defaults are stored. So new defaults apply to the rest.
        """
        usual = asdict(RefineConfig())
        config = {name: value for name, value in asdict(self.config).items() if value != usual[name]}
        document = {"format": _FORMAT, **asdict(self), "config": config}
        atomic_write(Path(folder) / SETTINGS_FILE, dumps(document) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> SavedSettings:
        """Read the settings in a folder; raises WeightsError if they cannot be read.

        Without ``refiner.json`` they are the defaults. Those of a bundled pipeline are the bundled detector and judge.
        """
        root = Path(folder)
        path = root / SETTINGS_FILE
        if not path.exists():
            bundled = "micro" if root.is_relative_to(MICRO_WEIGHTS) else None
            return cls(detector=bundled, judge=bundled)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != _FORMAT:
                raise ValueError("another format number")
            judges = data.get("judge")
            named = [data.get(part) for part in PARTS if part != "judge"]
            named += judges if isinstance(judges, list) else [judges]
            if not all(isinstance(part or "", str) for part in named):
                raise TypeError("a part that is not named by a text")
            return cls(config=config_from(data.pop("config")), **data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"The settings {str(path)!r} cannot be read ({reason_of(error)}): save the pipeline again."
            ) from error


def config_from(values: Mapping[str, Any]) -> RefineConfig:
    """Build a config from JSON values of its fields; missing fields have their default values.

    Raises:
        TypeError: a field is unknown.
        AttributeError: ``values`` is not a mapping.
        ConfigError: a setting is out of its range.
    """
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return RefineConfig(**read)
