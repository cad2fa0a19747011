"""Measure how well a detector finds the flaws of held-out images of the micro world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.detectors import load_detector
from refiner.errors import UnreadableOutputError
from refiner.masks import iou, union
from refiner.protocols import Detector
from refiner.training.runs import Run
from refiner.training.world.flaws import ImperfectGenerator, bundled_generator
from refiner.training.world.labels import KIND_NAMES, decoder_like
from refiner.training.world.marked import UNSEEN, Marked, drawn, generated, natural
from refiner.training.world.scores import HELD_OUT_SEED, pixel_f1
from refiner.training.world.words import FRAME
from refiner.types import Analysis, Mask, Region

FOUND_IOU = 0.25  # smallest IoU of a reported region with a true region, for which the true region counts as found


def held_out(count: int, clean: bool, decoded: bool = False) -> list[Marked]:
    """Make ``count`` held-out images, all without flaws or all with flaws. ``decoded``: imitate the autoencoder."""
    rng = np.random.default_rng((HELD_OUT_SEED, int(clean)))
    items = drawn(rng, count, clean)
    return [item._replace(image=decoder_like(item.image, rng)) if decoded else item for item in items]


def analyse(detector: Detector, items: Sequence[Marked], *, told: bool = True) -> list[Analysis | None]:
    """One analysis for each image. ``told``: whether the detector gets the captions. None: the answer is unreadable."""
    images = [Image.fromarray(item.image) for item in items]
    captions = [item.caption for item in items] if told else None
    try:
        return list(detector.batch(images, captions))
    except UnreadableOutputError:
        return [
            _alone(detector, image, item.caption if told else None) for image, item in zip(images, items, strict=True)
        ]


def _alone(detector: Detector, image: Image.Image, caption: str | None) -> Analysis | None:
    try:
        return detector(image, caption)
    except UnreadableOutputError:
        return None


class Hit(NamedTuple):
    """How a detector's answer treats one true region."""

    kind: str  # kind of the flaw; "unlike" for a difference from the caption
    found: bool
    right: bool  # whether the region is found and its category is right


def hits_of(item: Marked, answer: Analysis, overlap: Callable[[Region, Mask], float], least: float) -> list[Hit]:
    """One hit for each true region. It is found if its ``overlap`` with a reported region is at least ``least``."""
    rows = []
    for claim, mask, kind in zip(item.found, item.masks, item.kinds, strict=True):
        overlaps = [overlap(region, mask) for region in answer.regions]
        best = int(np.argmax(overlaps)) if overlaps else -1
        found = best >= 0 and overlaps[best] >= least
        name = "unlike" if kind == UNSEEN else KIND_NAMES[kind]
        rows.append(Hit(name, found, found and answer.regions[best].category == claim.category))
    return rows


def evaluate(detector: Detector, count: int, decoded: bool = False) -> dict[str, float]:
    """Scores of a detector on ``count`` flawed and ``count`` clean held-out images.

    Returns:
        Scores in [0, 1]:

        * ``pixel_f1``: F1 over the pixels of all flawed images together;
        * ``found``: share of true regions that a reported region overlaps with an IoU of at least ``FOUND_IOU``;
        * ``right_category``: share of the found regions with the right category;
        * ``verdict_accuracy``: balanced accuracy of the verdict, at probability 0.5;
        * ``clean_claimed``: share of clean images with a reported region;
        * ``unreadable``: share of all images whose answer is unreadable;
        * ``found/<kind>`` and ``right_category/<kind>``: the same for each kind of flaw.
    """
    return score(detector, held_out(count, False, decoded), held_out(count, True, decoded))


def evaluate_natural(detector: Detector, imperfect: ImperfectGenerator, count: int) -> dict[str, float]:
    """The same scores on at least ``count`` held-out images from the generator, with its own flaws."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    items = [item for painting in generated(rng, count, imperfect) for item in natural(painting)]
    return score(detector, [item for item in items if item.kinds], [item for item in items if not item.kinds])


def score(detector: Detector, flawed: Sequence[Marked], clean: Sequence[Marked]) -> dict[str, float]:
    """Scores on the given images, as ``evaluate`` returns them."""
    answers, clean_answers = analyse(detector, flawed), analyse(detector, clean)
    read = [(item, answer) for item, answer in zip(flawed, answers, strict=True) if answer is not None]
    clean_read = [answer for answer in clean_answers if answer is not None]
    hits = [hit for item, answer in read for hit in hits_of(item, answer, _overlap, FOUND_IOU)]
    named = [hit for hit in hits if hit.found]
    caught = np.mean([(answer.fake_probability or 0.0) > 0.5 for _, answer in read] or [False])
    spared = np.mean([(answer.fake_probability or 0.0) <= 0.5 for answer in clean_read] or [False])
    scores = {
        "pixel_f1": pixel_f1([(answer.mask, union(item.masks, answer.size)) for item, answer in read]),
        "found": float(np.mean([hit.found for hit in hits] or [False])),
        "right_category": float(np.mean([hit.right for hit in named] or [False])),
        "verdict_accuracy": float((caught + spared) / 2),
        "clean_claimed": float(np.mean([bool(answer.regions) for answer in clean_read] or [False])),
        "unreadable": 1 - (len(read) + len(clean_read)) / (len(flawed) + len(clean)),
    }
    for kind in sorted({hit.kind for hit in hits}):
        scores[f"found/{kind}"] = float(np.mean([hit.found for hit in hits if hit.kind == kind]))
    for kind in sorted({hit.kind for hit in named}):
        scores[f"right_category/{kind}"] = float(np.mean([hit.right for hit in named if hit.kind == kind]))
    return scores


def _overlap(region: Region, mask: Mask) -> float:
    return iou(region.pixels(FRAME), mask)


def measure(detector: Detector, imperfect: ImperfectGenerator, count: int) -> dict[str, float]:
    """All held-out scores of a detector on exact renders.

    Under ``decoded/`` and ``natural/``, without single kinds of flaws, are those after the imitated autoencoder and on
    images from the generator.
    """
    scores = evaluate(detector, count)
    decoded = evaluate(detector, count, decoded=True)
    natural = evaluate_natural(detector, imperfect, count)
    for name, others in (("decoded", decoded), ("natural", natural)):
        scores |= {f"{name}/{key}": value for key, value in others.items() if "/" not in key}
    return scores


def measure_detector(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` for the detector in a folder, with the generator in the run's weights."""
    return measure(load_detector(folder), bundled_generator(run.weights), count)
