"""A training run: its folder, device and dtype."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from refiner.errors import ConfigError, InputError
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.training.launching import is_main

if TYPE_CHECKING:
    from refiner.training.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a training writes and computes.

    Raises:
        ConfigError: training cannot use the dtype.
    """

    folder: Path
    """Holds ``config.json``, ``log.jsonl``, ``curves.png``, checkpoints, and data that the recipe generates first."""
    device: str | None = "cpu"  # cpu, cuda or mps. None: the best available.
    dtype: str | None = None  # The autocast dtype: float32 or bfloat16. None: the recipe's own.
    console: Console | None = None  # Where progress is shown. None: standard output.
    weights: Path = MICRO_WEIGHTS  # folder of the bundled models that a recipe starts from, one sub-folder for each

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_dtype(self.dtype)

    @functools.cached_property
    def processes(self) -> Processes:
        """The processes of the run."""
        from refiner.training.processes import Processes

        return Processes(self.device)

    @property
    def paintings(self) -> Path:
        """Folder next to the run's folder, with the generated images that several recipes learn from."""
        return self.folder.parent / "paintings"

    def tell(self, sentence: str, *, everywhere: bool = False) -> None:
        """Show a sentence: once for all processes, or ``everywhere`` by each process that has one."""
        if everywhere or is_main():
            (self.console or Console(highlight=False)).print(sentence, markup=False)


def check_dtype(name: str) -> None:
    """Raise ConfigError if training cannot use the dtype."""
    if name not in ("float32", "bfloat16"):
        raise ConfigError(f"Expected dtype float32 or bfloat16, got {name!r}: choose one of these.")


def stored_config(folder: Path) -> Json | None:
    """Read the ``config.json`` of a run; None if there is no such file.

    Raises:
        InputError: the file cannot be read, or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"The config {str(path)!r} cannot be read ({error}): choose another folder.") from error
    if not isinstance(document, dict):
        raise InputError(f"The config {str(path)!r} is not a JSON object: choose another folder.")
    return document


def open_run(folder: Path, config: Json, *, resume: bool) -> None:
    """Make the run's folder with its ``config.json``, or check that the run in it has the same config.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is not set; or ``resume`` is set and the folder holds no run,
            or a run with another config.
        OutputError: the folder cannot be written.
    """
    if not is_main():
        return
    stored = stored_config(folder)
    if stored is None and resume:
        raise ConfigError(f"There is no run to resume in {str(folder)!r}: remove --resume, or name the run with --out.")
    if stored is not None and not resume:
        raise ConfigError(f"{str(folder)!r} already holds a run: add --resume to continue it, or choose another --out.")
    if stored is not None and (differences := _differences(stored, config)):
        raise ConfigError(
            f"The run in {str(folder)!r} has another config ({'; '.join(differences)}): "
            "resume it with the same config, or choose another --out."
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
            rows.append(f"{where}{name} is {json.dumps(old)} in the run and {json.dumps(new)} now")
    return rows
