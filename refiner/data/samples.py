"""What a data set is made of: samples, each with its picture, prompt and truth as far as there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from PIL import Image

from refiner.data.anomreason import to_document
from refiner.data.problems import Problem
from refiner.files import Json
from refiner.records import analysis_to_dict
from refiner.types import Analysis, Claim

_LABELS: Final = frozenset({"0_real", "1_fake"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One picture, or one prompt to paint."""

    name: str
    """Unique in its data set."""
    group: str = ""
    """The part of the data set that it belongs to, such as its generator."""
    prompt: str = ""
    """What the picture shows; "" where that is not known."""
    image: Image.Image | None = None
    """RGB; None where the picture is still to be painted."""
    fake: bool | None = None
    """Whether it is generated (in the micro world: whether it has a flaw); None where that is not known."""
    truth: Analysis | None = None
    """The regions that are flawed; None where that is not known."""
    categorised: bool = True
    """Whether the truth tells of which kind its regions are."""
    itemised: bool = True
    """Whether the truth tells one flaw from another, and does not just join them in one mask."""
    anomalies: tuple[Claim, ...] | None = None
    """What is wrong, in words; None where that is not known."""

    def truth_record(self) -> Json:
        """The truth, ready for JSON."""
        words = None if self.anomalies is None else to_document({"": self.anomalies})[""]
        analysis = None if self.truth is None else analysis_to_dict(self.truth, arrays=True)
        return {
            "fake": self.fake,
            "analysis": analysis,
            "categorised": self.categorised,
            "itemised": self.itemised,
            "anomalies": words,
        }


class DataSet(Protocol):
    """Samples by number. The same specification gives the same samples in the same order, everywhere."""

    problems: list[Problem]
    """What was wrong with the data set as a whole."""

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order, each once."""
        ...

    def load(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            InputError: its picture or its truth cannot be read.
        """
        ...


def joined_text(anomalies: Iterable[Claim]) -> str:
    """Anomalies as one text: explanation and reasoning of each, in order."""
    return " ".join(f"{anomaly.explanation} {anomaly.reasoning}" for anomaly in anomalies)


def digest(names: Iterable[str]) -> str:
    """A fingerprint of names and their order, hexadecimal."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()[:16]


def group_of(name: str) -> str:
    """The part of a data set that a picture belongs to, such as its generator: the first folder of its path.

    Folders that only say what is real (``0_real``, ``1_fake``) do not count; "" where no other is there.
    """
    return next((part for part in PurePosixPath(name).parts[:-1] if part not in _LABELS), "")
