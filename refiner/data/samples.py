"""Samples of a data set: each with its image, prompt and truth, if there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.data.anomreason import FAKE, REAL, to_document
from refiner.data.problems import Problem
from refiner.errors import InputError
from refiner.files import Json
from refiner.masks import box_of
from refiner.records import analysis_to_dict
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Score, Size

UNNAMED: Final = "truth"
"""Name of a true region to which the data set gives no name."""
_LABELS: Final = frozenset({REAL, FAKE})


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One image, or one prompt to generate from."""

    name: str
    """Unique in its data set."""
    group: str = ""
    """The part of the data set, such as the generator."""
    prompt: str = ""
    """What the image shows; "" if unknown."""
    image: Image.Image | None = None
    """RGB; None if the image is still to be generated."""
    fake: bool | None = None
    """Whether it is generated (in the micro world: whether it has a flaw); None if unknown."""
    truth: Analysis | None = None
    """The flawed regions; None if unknown."""
    categorised: bool = True
    """Whether the truth gives the category of each region."""
    itemised: bool = True
    """Whether the truth separates the flaws, instead of joining them in one mask."""
    misalignments: bool = False
    """Whether the truth also lists where the image differs from its prompt; else nobody looked for that."""
    weighed: bool = False
    """Whether the truth gives the severity of each region."""
    anomalies: tuple[Claim, ...] | None = None
    """The flaws in words; None if unknown."""
    caption: str = ""
    """The text of the answer that a model should give about the image; "" if unknown."""
    scores: tuple[Score, ...] = ()
    """What people scored, such as the overall quality; empty if unknown."""
    split: str = ""
    """The part of the data set for training or testing that it belongs to, such as ``train``; "" if unknown."""
    pair: str = ""
    """Samples with equal values belong together: a real image, and those that were generated from it or from what it
    shows. "" if the data set pairs none."""

    @property
    def perceptual(self) -> Sample:
        """The same without misalignments with the prompt, for whoever does not see the prompt."""
        truth = self.truth and self.truth.perceptual
        words = self.anomalies and tuple(each for each in self.anomalies if each.category is not Category.MISALIGNMENT)
        return replace(self, truth=truth, anomalies=words)

    def truth_record(self) -> Json:
        """The truth, ready for JSON; ``anomalies`` has no misalignments with the prompt."""
        known = self.perceptual.anomalies
        words = None if known is None else to_document({"": known})[""]
        analysis = None if self.truth is None else analysis_to_dict(self.truth, arrays=True)
        return {
            "fake": self.fake,
            "analysis": analysis,
            "categorised": self.categorised,
            "itemised": self.itemised,
            "misalignments": self.misalignments,
            "weighed": self.weighed,
            "anomalies": words,
            "caption": self.caption,
        }


class DataSet(Protocol):
    """Samples by number. The same specification always gives the same samples in the same order."""

    problems: list[Problem]
    """Problems of the data set as a whole."""

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order, each once."""
        ...

    def load(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            InputError: its image or its truth cannot be read.
        """
        ...


def polygon_rule(data: DataSet) -> str:
    """How a data set draws the polygons of its truth: its attribute ``polygons``; "" if it has none.

    ``clipped`` moves points outside the image to its border first, ``unclipped`` does not.
    """
    rule: str = getattr(data, "polygons", "")
    return rule


def pairs_of(data: DataSet) -> list[str]:
    """The ``pair`` of each sample, by its number; "" for samples that cannot be read.

    A data set that knows them without reading its images has them as its attribute ``pairs``.
    """
    known: Sequence[str] | None = getattr(data, "pairs", None)
    return [_pair_of(data, index) for index in range(len(data.names))] if known is None else list(known)


def _pair_of(data: DataSet, index: int) -> str:
    try:
        return data.load(index).pair
    except InputError:
        return ""


def check_size(found: Size, wanted: Size, name: str, folder: Path) -> None:
    """Check that an image has the size that its record gives.

    Raises:
        InputError: it has another size.
    """
    if found != wanted:
        raise InputError(
            f"Expected {wanted.width}x{wanted.height} pixels of {name!r}, as its record says, got "
            f"{found.width}x{found.height} in {str(folder)!r}: download the image again."
        )


def joined_truth(mask: Mask, detector: str, heatmap: NDArray[np.float32] | None = None) -> Analysis:
    """The truth of an image whose flaws are one mask, without a category.

    Args:
        mask: bool (H, W); all False for an image without flaws.
        detector: where the mask is from.
        heatmap: float (H, W) in [0, 1], or None.
    """
    box = box_of(mask)
    # No figure of this truth uses the category.
    region = () if box is None else (Region(mask=mask, box=box, name=UNNAMED, category=Category.TEXTURE),)
    return Analysis(size=Size(*mask.shape), regions=region, heatmap=heatmap, detector=detector)


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
    """The part of a data set that an image belongs to, such as its generator: the first folder of its path.

    The folders ``0_real`` and ``1_fake`` do not count; "" if there is no other folder.
    """
    return next((part for part in PurePosixPath(name).parts[:-1] if part not in _LABELS), "")
