"""Measure a detector as FakeXplain does: verdicts, boxes and descriptions (papers/fakexplain.md, table 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.errors import UnreadableOutputError
from refiner.masks import iou
from refiner.metrics.boxes import region_iou
from refiner.metrics.text import bleu_2, rouge_l
from refiner.protocols import Detector
from refiner.training.chat.truths import truth_of
from refiner.training.runs import Run
from refiner.training.world.flaws import bundled_generator
from refiner.training.world.injected import painted
from refiner.training.world.labels import decoder_like
from refiner.training.world.scores import HELD_OUT_SEED
from refiner.types import Analysis

_AT_ONCE = 16  # images that are analysed in one batch


class Row(NamedTuple):
    """The figures of one image; None where a figure does not exist."""

    fake: bool
    right: bool
    """Whether the verdict is right; an unreadable answer is wrong. Without a verdict, regions mean "generated"."""
    readable: bool
    boxes: int
    box_iou: float | None
    """IoU of the areas of predicted and true boxes; only for generated images with true boxes."""
    mask_iou: float | None
    """The same of the masks."""
    bleu_2: float | None
    """Of all descriptions together; only for generated images with true descriptions."""
    rouge_l: float | None


def measured(detector: Detector, samples: Iterator[Sample]) -> Iterator[Row]:
    """The figures of each sample that has an image and a truth."""
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == _AT_ONCE:
            yield from _batch(detector, waiting)
            waiting = []
    if waiting:
        yield from _batch(detector, waiting)


def _batch(detector: Detector, samples: Sequence[Sample]) -> Iterator[Row]:
    usable = [sample for sample in samples if sample.image is not None]
    try:
        answers: list[Analysis | None] = list(detector.batch([sample.image for sample in usable if sample.image]))
    except UnreadableOutputError:
        answers = [_alone(detector, sample) for sample in usable]
    for sample, answer in zip(usable, answers, strict=True):
        yield row_of(sample, answer)


def _alone(detector: Detector, sample: Sample) -> Analysis | None:
    assert sample.image is not None
    try:
        return detector(sample.image)
    except UnreadableOutputError:
        return None


def row_of(sample: Sample, answer: Analysis | None) -> Row:
    """The figures of one answer; None: it was unreadable."""
    truth = truth_of(sample)
    said = None if answer is None else answer.fake_probability
    if answer is not None and said is None:
        said = float(bool(answer.regions))
    placed = [] if answer is None else [region.box for region in answer.regions if region.box is not None]
    true = [] if sample.truth is None else [region.box for region in sample.truth.regions if region.box is not None]
    words = " ".join(flaw.description for flaw in truth.flaws)
    told = "" if answer is None else " ".join(region.explanation for region in answer.regions)
    masks = None
    if truth.fake and true and sample.truth is not None:
        masks = 0.0 if answer is None else iou(answer.mask, sample.truth.mask)
    return Row(
        fake=truth.fake,
        right=said is not None and (said > 0.5) == truth.fake,
        readable=answer is not None,
        boxes=len(placed),
        box_iou=region_iou(placed, true) if truth.fake and true else None,
        mask_iou=masks,
        bleu_2=bleu_2(told, words) if words else None,
        rouge_l=rouge_l(told, words) if words else None,
    )


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Means over images. ``balanced_accuracy`` is the mean of the accuracies on generated and on real images.

    ``boxes`` is the number of boxes on a generated image. A mean over nothing is left out.
    """
    fakes, reals = [row for row in rows if row.fake], [row for row in rows if not row.fake]
    found: dict[str, list[float]] = {
        "accuracy": [row.right for row in rows],
        "unreadable": [not row.readable for row in rows],
        "boxes": [row.boxes for row in fakes],
        "clean_claimed": [bool(row.boxes) for row in reals],
    }
    for name in ("box_iou", "mask_iou", "bleu_2", "rouge_l"):
        found[name] = [value for row in rows if (value := getattr(row, name)) is not None]
    scores = {name: float(np.mean(values)) for name, values in found.items() if values}
    if fakes and reals:
        scores["balanced_accuracy"] = float(np.mean([np.mean([row.right for row in own]) for own in (fakes, reals)]))
    return scores


def held_out_scores(detector: Detector, run: Run, count: int) -> dict[str, float]:
    """Scores of a detector of the micro world by ``<set>/<score>``.

    Sets: ``injected``: drawn images, ``count`` with flaws and as many without; ``decoded``: the same through an
    imitated autoencoder; ``natural``: at least ``count`` images from the generator.
    """
    drawn = [MicroData(2 * count, painted=True).load(index) for index in range(2 * count)]
    rng = np.random.default_rng([HELD_OUT_SEED, 7])
    sets = {
        "injected": drawn,
        "decoded": [replace(sample, image=_decoded(sample, rng)) for sample in drawn],
        "natural": list(painted(bundled_generator(run.weights), count)),
    }
    scores = {name: summary(list(measured(detector, iter(samples)))) for name, samples in sets.items()}
    return {f"{name}/{key}": value for name, own in scores.items() for key, value in own.items()}


def _decoded(sample: Sample, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(decoder_like(np.asarray(sample.image), rng))
