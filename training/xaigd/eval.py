"""Measure a detector on X-AIGD's tasks: verdicts (AJ), masks (PAD), and what its heat map shows (papers/x-aigd.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.masks import iou, union
from refiner.metrics.classification import BinaryCounts
from refiner.metrics.heatmaps import heatmap_mask
from refiner.metrics.localization import PixelCounts, count_pixels
from refiner.protocols import Detector
from refiner.taxonomy import XaigdCategory
from refiner.training.runs import Run
from refiner.training.world.flaws import bundled_generator
from refiner.training.world.injected import painted
from refiner.training.world.labels import decoder_like
from refiner.training.world.scores import HELD_OUT_SEED
from refiner.types import Analysis, Mask

_AT_ONCE = 16  # images that are analysed in one batch


class Row(NamedTuple):
    """The figures of one image; None where a figure does not exist."""

    fake: bool
    judged: bool  # whether it is called generated
    claimed: bool  # whether it has a placed region
    mask_iou: float | None  # only of images with true regions
    heat_iou: float | None  # the same, of the heat map above half of its range
    par: float  # share of flawed pixels in the truth
    pixels: dict[XaigdCategory, PixelCounts]  # of the categories that the truth or the answer has


def rows_of(detector: Detector, samples: Iterable[Sample]) -> Iterator[Row]:
    """The figures of each sample that has an image, a verdict and a truth (real images need none)."""
    waiting: list[Sample] = []
    for sample in samples:
        if sample.image is None or sample.fake is None or (sample.fake and sample.truth is None):
            continue
        waiting.append(sample)
        if len(waiting) == _AT_ONCE:
            yield from _batch(detector, waiting)
            waiting = []
    yield from _batch(detector, waiting)


def _batch(detector: Detector, samples: Sequence[Sample]) -> Iterator[Row]:
    answers = detector.batch([sample.image for sample in samples if sample.image is not None])
    for sample, answer in zip(samples, answers, strict=True):
        yield row_of(sample, answer)


def row_of(sample: Sample, answer: Analysis) -> Row:
    """The figures of one answer. Without a verdict, placed regions mean "generated"."""
    truth = sample.truth or Analysis(size=answer.size, detector="real")
    mask, claimed = truth.mask, any(region.placed for region in answer.regions)
    fake = answer.fake_probability
    heat = None if answer.heatmap is None or not mask.any() else heatmap_mask(answer.heatmap, answer.size)
    true, found = _by_category(truth), _by_category(answer)
    empty = np.zeros_like(mask)
    return Row(
        fake=bool(sample.fake),
        judged=claimed if fake is None else fake > 0.5,
        claimed=claimed,
        mask_iou=iou(answer.mask, mask) if mask.any() else None,
        heat_iou=None if heat is None else iou(heat, mask),
        par=float(mask.mean()),
        pixels={
            each: count_pixels(found.get(each, empty), true.get(each, empty)) for each in true.keys() | found.keys()
        },
    )


def _by_category(analysis: Analysis) -> dict[XaigdCategory, Mask]:
    found: dict[XaigdCategory, list[Mask]] = {}
    for region in analysis.regions:
        if region.category.xaigd is not None:
            found.setdefault(region.category.xaigd, []).append(region.pixels(analysis.size))
    return {category: union(masks, analysis.size) for category, masks in found.items()}


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Scores in [0, 1].

    Returns:
        ``balanced_accuracy``, ``f1``, ``precision`` and ``recall`` of the verdicts; means over images with true regions
        of ``mask_iou`` and ``heat_iou``; ``clean_claimed``, the share of real images with a placed region; and
        ``iou/<category>``, pooled over the pixels of all images. Scores without images are left out.
    """
    counts = sum((BinaryCounts.of(row.fake, row.judged) for row in rows), BinaryCounts())
    scores = {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    if counts.balanced_accuracy is not None:
        scores["balanced_accuracy"] = counts.balanced_accuracy
    for name in ("mask_iou", "heat_iou"):
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            scores[name] = float(np.mean(values))
    claimed = [row.claimed for row in rows if not row.fake]
    if claimed:
        scores["clean_claimed"] = float(np.mean(claimed))
    for category in XaigdCategory:
        own = [row.pixels[category] for row in rows if category in row.pixels]
        if own:
            scores[f"iou/{category}"] = sum(own, PixelCounts()).iou()
    return scores


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``held_out_scores`` of the model in a folder."""
    return held_out_scores(load_detector(f"xaigd:{folder}", device="cpu"), run, count)


def held_out_scores(detector: Detector, run: Run, count: int) -> dict[str, float]:
    """Scores of a detector of the micro world by ``<set>/<score>``.

    Sets: ``injected``: drawn images, ``count`` with flaws and as many without; ``decoded``: the same through an
    imitated autoencoder; ``natural``: at least ``count`` images from the generator.
    """
    drawn = [MicroData(2 * count, painted=True).load(index) for index in range(2 * count)]
    rng = np.random.default_rng([HELD_OUT_SEED, 8])
    sets = {
        "injected": drawn,
        "decoded": [replace(sample, image=_decoded(sample, rng)) for sample in drawn],
        "natural": list(painted(bundled_generator(run.weights), count)),
    }
    scores = {name: summary(list(rows_of(detector, samples))) for name, samples in sets.items()}
    return {f"{name}/{key}": value for name, own in scores.items() for key, value in own.items()}


def _decoded(sample: Sample, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(decoder_like(np.asarray(sample.image), rng))
