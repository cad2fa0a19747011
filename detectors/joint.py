"""Several detectors as one: what one of them overlooks, another may see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from refiner.detectors.family import Family
from refiner.detectors.registry import load_detector
from refiner.errors import ConfigError
from refiner.protocols import Borrower, Detector, Movable, Spender
from refiner.types import Analysis, Calls, Region

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from refiner.detectors.ids import ModelId

_CLAIMED = 0.3
"""From this share of its pixels on, a region is one that an earlier detector has claimed already."""


class JointDetector:
    """The regions of several detectors, each flaw once; satisfies ``refiner.protocols.Detector``.

    A region is left out where earlier detectors have claimed three tenths of it: the flaw keeps the first one's words.
    The verdict is that of the detector that is surest; the heatmap the larger value of each pixel, where all of them
    draw one. What one of them cannot read, or refuses, stands for all, so that nothing unread counts as clean.

    Args:
        detectors: two or more, the one with the best words first.

    Raises:
        ConfigError: fewer.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        if len(detectors) < 2:
            raise ConfigError(f"Expected two detectors or more, got {len(detectors)}: use a single one by itself.")
        self.detectors = tuple(detectors)

    @property
    def name(self) -> str:
        """The names of all."""
        return " & ".join(detector.name for detector in self.detectors)

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """What any of them sees in one RGB picture."""
        return _joined([detector(image, prompt) for detector in self.detectors], self.name)

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """The same answers as one call each."""
        answers = [detector.batch(images, prompts) for detector in self.detectors]
        return [_joined(each, self.name) for each in zip(*answers, strict=True)]

    def bind(self, pipe: DiffusionPipeline) -> None:
        """Lend the pipeline that paints to those that look through its denoiser.

        Raises:
            ConfigError: one of them cannot look through it.
        """
        for detector in self.detectors:
            if isinstance(detector, Borrower):
                detector.bind(pipe)

    def to(self, device: str | torch.device) -> JointDetector:
        """Move those that can be moved."""
        for detector in self.detectors:
            if isinstance(detector, Movable):
                detector.to(device)
        return self

    def spent(self) -> Calls:
        """Denoiser rows of all so far."""
        return sum((part.spent() for part in self.detectors if isinstance(part, Spender)), Calls())


def _joined(answers: Sequence[Analysis], name: str) -> Analysis:
    size, regions = answers[0].size, list[Region]()
    claimed = np.zeros(tuple(size), dtype=np.bool_)
    for answer in answers:
        masks = [region.pixels(size) for region in answer.regions]
        new = [not mask.any() or (mask & claimed).sum() < _CLAIMED * mask.sum() for mask in masks]
        regions += [region for region, alone in zip(answer.regions, new, strict=True) if alone]
        claimed |= answer.mask
    chances = [answer.fake_probability for answer in answers if answer.fake_probability is not None]
    heatmaps = [answer.heatmap for answer in answers if answer.heatmap is not None]
    return Analysis(
        size=size,
        regions=tuple(regions),
        fake_probability=max(chances, default=None),
        heatmap=np.maximum.reduce(heatmaps) if len(heatmaps) == len(answers) else None,
        tags=tuple(dict.fromkeys(tag for answer in answers for tag in answer.tags)),
        raw="\n".join(filter(None, (answer.raw for answer in answers))),
        detector=name,
    )


def joined_ids(detector: str | Path) -> list[str]:
    """The ids that ``joint:`` joins, or the one id.

    Raises:
        ConfigError: there are fewer than two behind ``joint:``, or one is a joint one itself.
    """
    prefix, colon, rest = str(detector).partition(":")
    if prefix != FAMILY.name or not colon:
        return [str(detector)]
    ids = rest.split("+")
    if len(ids) < 2 or not all(ids) or any(each.startswith(f"{FAMILY.name}:") for each in ids):
        raise ConfigError(
            f"Expected ids of two detectors or more with + between, such as joint:micro+micro:probe, got {detector!r}."
        )
    return ids


def _load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> JointDetector:
    ids = joined_ids(f"{FAMILY.name}:{model.model}")
    return JointDetector([load_detector(each, device, dtype) for each in ids])


FAMILY = Family(name="joint", load=_load, needs_folder=False, usage=("joint:<id>+<id>",))
