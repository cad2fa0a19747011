"""Several detectors together: one may find what another misses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refiner.calibration import abstained
from refiner.coverage import joined_gaps
from refiner.detectors.composed import ComposedDetector
from refiner.detectors.family import Family
from refiner.detectors.registry import detector_needs, load_detector
from refiner.errors import ConfigError
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Detector
from refiner.types import Analysis, Region

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

_CLAIMED = 0.3
"""A region is already known if at least this share of its pixels is in regions of earlier detectors."""


class JointDetector(ComposedDetector):
    """Combines the regions of several detectors, each flaw once; a ``refiner.protocols.Detector``.

    A region is omitted if three tenths of it are in regions of earlier detectors; the first detector's description is
    kept. ``fake_probability`` is the highest one; None if it is at most 0.5 and a calibrated detector leaves its
    verdict open. The heatmap has the maximum of each pixel, if all detectors give a heatmap. If one detector raises an
    error, the whole call raises it, so that an unreadable answer never counts as clean.

    Args:
        detectors: two or more detectors or functions of an image (see ``refiner.plain.as_detector``); the one with the
            best descriptions first.

    Raises:
        ConfigError: there are fewer than two.
    """

    def __init__(self, detectors: Sequence[DetectorLike]) -> None:
        if len(detectors) < 2:
            raise ConfigError(f"Expected two detectors or more, got {len(detectors)}: use a single one by itself.")
        self.detectors = tuple(as_detector(detector) for detector in detectors)
        self.name = " & ".join(detector.name for detector in self.detectors)

    @property
    def parts(self) -> tuple[Detector, ...]:
        """The detectors."""
        return self.detectors

    def _combined(self, found: Sequence[Analysis]) -> Analysis:
        return _joined(found, self.name)


def _joined(answers: Sequence[Analysis], name: str) -> Analysis:
    size, regions = answers[0].size, list[Region]()
    claimed = np.zeros(tuple(size), dtype=np.bool_)
    for answer in answers:
        masks = [region.pixels(size) for region in answer.regions]
        new = [not mask.any() or (mask & claimed).sum() < _CLAIMED * mask.sum() for mask in masks]
        regions += [region for region, alone in zip(answer.regions, new, strict=True) if alone]
        claimed |= answer.mask
    heatmaps = [answer.heatmap for answer in answers if answer.heatmap is not None]
    return Analysis(
        size=size,
        regions=tuple(regions),
        fake_probability=_highest(answers),
        heatmap=np.maximum.reduce(heatmaps) if len(heatmaps) == len(answers) else None,
        tags=tuple(dict.fromkeys(tag for answer in answers for tag in answer.tags)),
        raw="\n".join(filter(None, (answer.raw for answer in answers))),
        detector=name,
        trace=tuple(step for answer in answers for step in answer.trace),
        gaps=joined_gaps(answers),
    )


def _highest(answers: Sequence[Analysis]) -> float | None:
    """The highest ``fake_probability``; None if there is none, or if an open verdict may be higher than 0.5."""
    chances = [answer.fake_probability for answer in answers if answer.fake_probability is not None]
    highest = max(chances, default=None)
    is_open = any(answer.fake_probability is None and abstained(answer.tags) for answer in answers)
    return None if highest is None or (is_open and highest <= 0.5) else highest


def joined_ids(detector: str | Path) -> list[str]:
    """Split an id into the ids that ``joint:`` joins; any other id is returned as the only one.

    Raises:
        ConfigError: there are fewer than two ids after ``joint:``, or one of them is a joint id.
    """
    prefix, colon, rest = str(detector).partition(":")
    if prefix != FAMILY.name or not colon:
        return [str(detector)]
    ids = rest.split("+")
    if len(ids) < 2 or not all(ids) or any(each.startswith(f"{FAMILY.name}:") for each in ids):
        raise ConfigError(
            f"Expected the ids of two detectors or more, got {detector!r}: put + between them, such as "
            "joint:micro+micro:probe."
        )
    return ids


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> JointDetector:
    ids = joined_ids(f"{FAMILY.name}:{model.model}")
    return JointDetector([load_detector(each, device, dtype) for each in ids])


def _needs(model: ModelId) -> Needs:
    return [need for each in joined_ids(f"{FAMILY.name}:{model.model}") for need in detector_needs(each)]


FAMILY = Family(name="joint", load=_load, needs=_needs, holds_ids=True, needs_folder=False, usage=("joint:<id>+<id>",))
