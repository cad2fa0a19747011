"""The folder of a run, and where the run computes."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from refiner.errors import ConfigError, InputError
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.training.processes import Processes, is_main

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a training writes and computes.

    Raises:
        ConfigError: a dtype that training cannot use.
    """

    folder: Path
    """``config.json``, ``log.jsonl``, ``curves.png``, checkpoints, and what the recipe draws ahead."""
    device: str | None = "cpu"
    """cpu, cuda or mps; None: the best one that there is."""
    dtype: str | None = None
    """Of autocast, float32 or bfloat16; None: the recipe's own."""
    console: Console | None = None
    """Where progress is shown; None: standard output."""
    weights: Path = MICRO_WEIGHTS
    """Folder of the bundled models that a recipe starts from, each by its name."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"Expected a dtype of {', '.join(DTYPES)}, got {self.dtype!r}: choose one of them.")

    @functools.cached_property
    def processes(self) -> Processes:
        """This process among those of the run."""
        return Processes(self.device)

    @property
    def paintings(self) -> Path:
        """Folder beside the run's for the pictures that several recipes learn from."""
        return self.folder.parent / "paintings"


def stored_config(folder: Path) -> Json | None:
    """The ``config.json`` of a run; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"The run's {str(path)!r} cannot be read ({error}): choose another folder.") from error
    if not isinstance(document, dict):
        raise InputError(f"The run's {str(path)!r} is not a JSON object: choose another folder.")
    return document


def open_run(folder: Path, config: Json, *, resume: bool) -> None:
    """Make the run's folder with its ``config.json``, or check that the run there is the same.

    Raises:
        ConfigError: there is a run and ``resume`` is not set; it is set and there is none, or one of another config.
        OutputError: the folder cannot be written.
    """
    if not is_main():
        return
    stored = stored_config(folder)
    if stored is None and resume:
        raise ConfigError(f"There is no run to resume in {str(folder)!r}: leave out --resume, or name its folder.")
    if stored is not None and not resume:
        raise ConfigError(f"There is a run in {str(folder)!r}: add --resume to go on with it, or choose another --out.")
    if stored is not None and (differences := _differences(stored, config)):
        raise ConfigError(
            f"The run in {str(folder)!r} has another config: {'; '.join(differences)}. "
            "Resume it with its own, or choose another --out."
        )
    check_writable(folder)
    atomic_write(folder / "config.json", dumps(config) + "\n")


def _differences(stored: Json, config: Json, where: str = "") -> list[str]:
    rows: list[str] = []
    for name in dict.fromkeys([*stored, *config]):
        old, new = stored.get(name), config.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            rows += _differences(old, new, f"{where}{name}.")
        elif old != new:
            rows.append(f"{where}{name} is {json.dumps(old)} there and {json.dumps(new)} here")
    return rows
