"""What a demo offers, and how much of it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refiner.errors import ConfigError
from refiner.hub import micro_parts

Choices = Mapping[str, str]
"""Label -> id. Labels are shown; ids may be paths or addresses and never leave the server."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How a demo is served.

    Raises:
        ConfigError: no model or detector, or a limit below 1.
    """

    models: Choices  # pipelines to choose from
    detectors: Choices  # detectors to choose from
    running: int = 2  # jobs at a time; they take turns at the models, attempt by attempt
    waiting: int = 16  # jobs that may wait for others to end; further ones are refused
    max_rounds: int = 6  # of a refinement
    max_prompt: int = 1000  # letters of a prompt
    max_file_bytes: int = 16 * 2**20  # of an uploaded file
    max_request_bytes: int = 256 * 2**20  # of all files uploaded at once
    max_pixels: int = 24_000_000  # of an uploaded picture, before it is scaled down
    max_side: int = 2048  # an uploaded picture is scaled down to this, in pixels
    max_prompts: int = 24  # of a ranking
    keep_seconds: int = 3600  # how long uploads and results stay on the disk

    def __post_init__(self) -> None:
        if not self.models or not self.detectors:
            raise ConfigError("Expected at least one model and one detector for the demo, got none: name one of each.")
        limits = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        for name, value in limits.items():
            if value < 1:
                raise ConfigError(f"Expected DemoSettings.{name} of at least 1, got {value}: name a larger one.")


def labelled(ids: Sequence[str]) -> Choices:
    """A label for each id: the name of a folder without its path, and a model behind an endpoint without its address.

    Equal labels are numbered.
    """
    found: dict[str, str] = {}
    for id_ in dict.fromkeys(ids):
        family, colon, rest = id_.partition(":")
        plain = id_.partition("@http")[0]
        if Path(id_).expanduser().is_dir():
            plain = Path(id_).expanduser().resolve().name
        elif colon and Path(rest).expanduser().is_dir():
            plain = f"{family}:{Path(rest).expanduser().resolve().name}"
        label, number = plain, 1
        while label in found:
            number += 1
            label = f"{plain} ({number})"
        found[label] = id_
    return found


def bundled_detectors() -> list[str]:
    """The ids of the detectors that come with the package."""
    from refiner.detectors.registry import families

    return [part for part in micro_parts() if part.removeprefix("micro:") in families()]
