"""Rewards of FakeXplain's GRPO for one answer: that of the paper, and that of the authors' code.

Paper (papers/fakexplain.md, key design 3): R = w_G(t) R_G + R_C + R_F with R_G = min(1, 1.1 IoU), R_C = 1 if the
verdict is right, R_F = 1 if the answer has the whole form, and w_G(t) = 0.5 + 0.5 t / T. IoU compares the areas that
the boxes cover, so more boxes on the same place gain nothing. For a real image, which has no boxes, R_G is 1 if the
answer has none. The paper does not say that; otherwise real images would gain less than generated ones.

Code: base + w IoU^1.1 + label + format, with other values in each of three stages (``STAGES``). Its IoU takes for each
predicted box the nearest free true box, and divides the sum of the IoUs by the number of true boxes, so it does not
punish additional boxes. One error is mended: there, boxes that overlap in neither direction have a positive overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from refiner.detectors.fakexplain.grammar import Answer, Content, is_well_formed
from refiner.detectors.reading.shares import Shares
from refiner.errors import ConfigError
from refiner.metrics.boxes import region_iou

ETA = 1.1
"""Factor on the IoU in the paper, and exponent of the IoU in the code."""
OMEGAS = ("progressive", "half", "full")
"""Weights of the grounding reward: rising from 0.5 to 1, or 0.5 or 1 all the time."""


class Truth(NamedTuple):
    """What is true of an image."""

    boxes: Sequence[Shares]
    fake: bool


class Stage(NamedTuple):
    """Values of one stage of the code's reward."""

    base: float
    overlap: float
    label: tuple[float, float]
    """For a right and for a wrong verdict."""
    form: tuple[float, float]
    """For an answer of the whole form and for others."""


STAGES = (
    Stage(base=0.0, overlap=1.0, label=(1.0, -1.0), form=(2.0, -1.0)),
    Stage(base=-0.5, overlap=1.5, label=(2.0, -2.0), form=(1.0, -1.5)),
    Stage(base=-1.0, overlap=2.0, label=(0.5, -1.0), form=(0.5, -1.0)),
)
"""The three stages of the code's reward."""


def omega(name: str, progress: float) -> float:
    """Weight of the grounding reward at ``progress``, the share of the training that is done, in [0, 1].

    Raises:
        ConfigError: there is no such weight.
    """
    if name not in OMEGAS:
        raise ConfigError(f"There is no weight {name!r} of the grounding reward: choose from {', '.join(OMEGAS)}.")
    return {"progressive": 0.5 + 0.5 * progress, "half": 0.5, "full": 1.0}[name]


def grounding(answer: Answer | None, truth: Truth) -> float:
    """R_G of the paper, in [0, 1]. ``answer`` None: it could not be read."""
    return min(1.0, ETA * overlap(answer, truth))


def overlap(answer: Answer | None, truth: Truth) -> float:
    """IoU of the areas that predicted and true boxes cover, in [0, 1]; for a real image 1 without boxes, else 0."""
    if answer is None:
        return 0.0
    return region_iou(answer.boxes, truth.boxes) if truth.boxes else float(not answer.boxes)


def verdict(answer: Answer | None, truth: Truth) -> float:
    """R_C of the paper: 1 if the verdict is right, else 0."""
    return float(answer is not None and answer.fake == truth.fake)


def form(answer: Answer | None, content: Content) -> float:
    """R_F of the paper: 1 if the answer is whole (``is_well_formed``), else 0."""
    return float(answer is not None and is_well_formed(answer, content))


def staged(answer: Answer | None, truth: Truth, content: Content, progress: float) -> float:
    """The reward of the authors' code. Each third of the training is one stage.

    Departure: an answer counts as of the whole form as in the paper's reward, not by two tags alone.
    """
    stage = STAGES[min(int(progress * len(STAGES)), len(STAGES) - 1)]
    share = 0.0 if answer is None else nearest_iou(answer.boxes, truth.boxes)
    right = stage.label[0 if verdict(answer, truth) else 1]
    return float(stage.base + stage.overlap * share**ETA + right + stage.form[0 if form(answer, content) else 1])


def nearest_iou(predicted: Sequence[Shares], true: Sequence[Shares]) -> float:
    """The IoU of the authors' code, in [0, 1]; 1 without true boxes."""
    if not true:
        return 1.0
    free, total = list(true), 0.0
    for box in predicted:
        if not free:
            break
        near = min(range(len(free)), key=lambda place: _distance(box, free[place]))
        total += region_iou([box], [free.pop(near)])
    return total / len(true)


def _distance(first: Shares, second: Shares) -> float:
    """Distance between the centres of two boxes."""
    across = first[0] + first[2] - second[0] - second[2]
    down = first[1] + first[3] - second[1] - second[3]
    return math.hypot(across, down) / 2
