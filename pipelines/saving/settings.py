"""``refiner.json``: what a saved RefinedPipeline adds to an ordinary diffusers folder."""

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

SETTINGS_FILE = "refiner.json"
_FORMAT = 1
PARTS = ("detector", "judge", "reviser", "inpainter", "second_stage")
"""What may be named by its id."""


@dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """Which detector, judge, reviser and further pipelines belong to a pipeline, and the defaults of its calls."""

    detector: str | None = None
    """Id or folder of the detector, "./..." inside the pipeline's folder; None: the user must name one."""
    judge: str | list[str] | None = None
    """Id or folder of the judge, or of several; None: there is none."""
    reviser: str | None = None
    """Id of the reviser; None: the template."""
    config: RefineConfig = field(default_factory=RefineConfig)
    call: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for the diffusers pipeline's call, such as ``num_inference_steps``."""
    inpainter: str | None = None
    """Id or folder of the pipeline that repaints; None: the generator does."""
    inpaint_call: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for the call that repaints."""
    second_stage: str | None = None
    """Id or folder of the pipeline that finishes pictures; None: the generator does."""
    native: int | None = None
    """Side of the square pictures that the model was trained on, in pixels; None: as the pipeline says."""

    def write(self, folder: str | Path) -> None:
        """Write ``refiner.json``: of the config only what differs from the defaults, so that later defaults apply.

        Raises:
            OutputError: the folder cannot be written.
        """
        usual = asdict(RefineConfig())
        config = {name: value for name, value in asdict(self.config).items() if value != usual[name]}
        document = {"format": _FORMAT, **asdict(self), "config": config}
        atomic_write(Path(folder) / SETTINGS_FILE, dumps(document) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> SavedSettings:
        """The settings in a folder; where it has none, the defaults, and the bundled models for a bundled pipeline.

        Raises:
            WeightsError: they cannot be read.
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
            raise WeightsError(f"Expected settings in {str(path)!r}, got some that fail with {error!r}.") from error


def config_from(values: Mapping[str, Any]) -> RefineConfig:
    """A config from JSON values of its fields; those that are missing take their defaults.

    Raises:
        TypeError: a field that there is not, or no mapping.
        ConfigError: a setting out of its range.
    """
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return RefineConfig(**read)
