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

SETTINGS_FILE = "refiner.json"
_FORMAT = 1
PARTS = ("detector", "judge", "reviser", "inpainter", "second_stage")
"""Parts that can be stored by their ids."""


@dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """The content of ``refiner.json``: parts of the RefinedPipeline by their ids, and default settings of its calls."""

    detector: str | None = None
    """Id or folder of the detector, "./..." inside the pipeline's folder; None: the user must pass one."""
    judge: str | list[str] | None = None
    """Id or folder of the judge, or a list of them; None: no judge."""
    reviser: str | None = None
    """Id of the reviser; None: the ``TemplateReviser``."""
    config: RefineConfig = field(default_factory=RefineConfig)
    call: Mapping[str, Any] = field(default_factory=dict)
    """Default arguments for the diffusers pipeline's call, such as ``num_inference_steps``."""
    inpainter: str | None = None
    """Id or folder of the inpainting pipeline; None: the generator inpaints."""
    inpaint_call: Mapping[str, Any] = field(default_factory=dict)
    """Default arguments for the inpainting call."""
    second_stage: str | None = None
    """Id or folder of the pipeline that turns latents into images; None: there is no second stage."""
    native: int | None = None
    """Side of the square images that the model was trained on, in pixels; None: the pipeline's own value."""

    def write(self, folder: str | Path) -> None:
        """Write ``refiner.json``. Of the config, only values that differ from the defaults are stored.

        So new defaults of a later version apply to the rest.

        Raises:
            OutputError: the file cannot be written.
        """
        usual = asdict(RefineConfig())
        config = {name: value for name, value in asdict(self.config).items() if value != usual[name]}
        document = {"format": _FORMAT, **asdict(self), "config": config}
        atomic_write(Path(folder) / SETTINGS_FILE, dumps(document) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> SavedSettings:
        """Read the settings in a folder; without ``refiner.json`` they are the defaults.

        The default detector and judge of a bundled pipeline are the bundled ones.

        Raises:
            WeightsError: the settings cannot be read.
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
                f"The settings {str(path)!r} cannot be read ({error!r}): save the pipeline again."
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
