"""Hostile inputs in numbers: what became of each, by target."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from refiner.errors import RefinerError
from tests.support.hostile import numbered
from tests.support.hostile_answers import ANSWERS
from tests.support.hostile_files import files

LONGEST = 1500
"""Characters of a message of an error."""


@dataclass
class Outcome:
    """What became of the inputs of one target."""

    read: int = 0
    refused: int = 0
    """In words, by an error of the project."""
    faults: list[str] = field(default_factory=list)
    """Other exceptions, and messages of errors that are no sentence, each with the number of the input."""
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        """Their number."""
        return self.read + self.refused + len(self.faults)


def targets(folder: Path) -> Mapping[str, Callable[[Random], object]]:
    """All readers and parsers by name; files are written into the folder."""
    return {**dict(files(folder)), **ANSWERS}


def feed(target: Callable[[Random], object], name: str, seed: int, numbers: Iterable[int]) -> Outcome:
    """Give hostile inputs to a target; the same seed, name and number give the same input."""
    outcome = Outcome()
    for number in numbers:
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target(numbered(seed, name, number))
            outcome.read += 1
        except RefinerError as error:
            text = str(error)
            if not text.isprintable() or len(text) > LONGEST:
                outcome.faults.append(f"{number}: a message of {len(text)} characters: {text!r:.200}")
            else:
                outcome.refused += 1
        except Exception as error:
            outcome.faults.append(f"{number}: {error!r:.300}")
        seconds = time.process_time() - began
        outcome.seconds += seconds
        outcome.slowest = max(outcome.slowest, seconds)
    return outcome
