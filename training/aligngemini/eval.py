"""Measure AlignGemini and each of its branches: balanced accuracy on semantic flaws, pixel traces, and both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from refiner.data.micro import MicroData
from refiner.detectors import load_detector
from refiner.detectors.aligngemini.config import BRANCHES
from refiner.detectors.aligngemini.detector import AlignGeminiDetector
from refiner.detectors.aligngemini.semantic import SemanticDetector
from refiner.detectors.chat.local import LocalChat
from refiner.errors import UnreadableOutputError
from refiner.protocols import Detector
from refiner.training.aligngemini.drawn import Case, held_out
from refiner.training.runs import Run

_AT_ONCE = 16  # images that are analysed in one batch
_LONGEST = 512  # tokens of an answer; some answers about strange images never end


def bounded(folder: Path | str, device: torch.device) -> Detector:
    """The detector in a folder; its chat model writes at most ``_LONGEST`` tokens."""
    detector = load_detector(folder, device=device)
    for part in detector.parts if isinstance(detector, AlignGeminiDetector) else (detector,):
        if isinstance(part, SemanticDetector) and isinstance(part.backend, LocalChat):
            part.backend.max_tokens = _LONGEST
    return detector


def chances(detector: Detector, images: Sequence[Image.Image]) -> NDArray[np.float64]:
    """The ``fake_probability`` of each image, (N,). NaN: the answer cannot be read, or there is no probability."""
    found: list[float] = []
    for start in range(0, len(images), _AT_ONCE):
        batch = images[start : start + _AT_ONCE]
        try:
            answers = [analysis.fake_probability for analysis in detector.batch(batch)]
        except UnreadableOutputError:
            answers = [_alone(detector, image) for image in batch]
        found += [np.nan if answer is None else answer for answer in answers]
    return np.array(found, dtype=np.float64)


def _alone(detector: Detector, image: Image.Image) -> float | None:
    try:
        return detector(image).fake_probability
    except UnreadableOutputError:
        return None


def balanced_accuracy(chances: NDArray[np.float64], fake: Sequence[bool]) -> float:
    """The mean of the accuracies on generated and on real images; an answer that cannot be read is wrong."""
    truth = np.asarray(fake, dtype=np.bool_)
    right = np.where(np.isnan(chances), False, (chances > 0.5) == truth)
    return float(np.mean([right[truth].mean(), right[~truth].mean()]))


def scores_of(detectors: Mapping[str, Detector], sets: Mapping[str, Sequence[Case]]) -> dict[str, float]:
    """Balanced accuracy of each detector on each set, by ``<set>/<detector>``."""
    return {
        f"{name}/{who}": balanced_accuracy(chances(each, [case.image for case in cases]), [case.fake for case in cases])
        for name, cases in sets.items()
        for who, each in detectors.items()
    }


def sets_of(count: int, run: Run) -> dict[str, list[Case]]:
    """The sets of ``held_out``, and ``injected``: drawn images with flaws of all kinds, and clean ones."""
    data = MicroData(2 * count, painted=True)
    samples = [data.load(index) for index in range(2 * count)]
    injected = [Case(sample.image, bool(sample.fake)) for sample in samples if sample.image is not None]
    return {**held_out(count, run.weights / "generator"), "injected": injected}


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """Scores of a model in a folder by ``<set>/<branch>``, where ``both`` is the fused verdict."""
    detector = bounded(f"aligngemini:{folder}", torch.device("cpu"))
    if not isinstance(detector, AlignGeminiDetector):
        return scores_of({"alone": detector}, sets_of(count, run))
    branches = dict(zip(BRANCHES, detector.parts, strict=True))
    return scores_of({**branches, "both": detector}, sets_of(count, run))
