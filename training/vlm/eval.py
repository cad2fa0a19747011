"""Measure a detector on held-out images of the micro world, with and without their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refiner.detectors.vlm.detector import load_vlm
from refiner.masks import box_of, union
from refiner.metrics.boxes import region_iou
from refiner.protocols import Detector
from refiner.training.runs import Run
from refiner.training.vlm.data import SURE, natural, unlike
from refiner.training.world import localization
from refiner.training.world.flaws import ImperfectGenerator, bundled_generator
from refiner.training.world.labels import decoder_like
from refiner.training.world.localization import hits_of
from refiner.training.world.marked import Marked, drawn, generated
from refiner.training.world.scores import HELD_OUT_SEED, pixel_f1
from refiner.types import Analysis, Mask, Region

FOUND_IOU = 0.3
"""Smallest IoU of a reported box with the box of a true region, for which the true region counts as found."""
_AT_ONCE = 8  # images that are analysed in one batch


class Sets(NamedTuple):
    """Held-out images."""

    injected: list[Marked]  # exact renders, half of them with injected flaws
    decoded: list[Marked]  # the same images after an imitated round trip through an autoencoder
    unlike: list[Marked]  # clean images whose caption asks for something else than they show
    natural: list[Marked]  # images from the generator, with and without flaws


def held_out(count: int, imperfect: ImperfectGenerator) -> Sets:
    """Make the held-out images: ``count`` flawed and ``count`` clean renders, and at least ``count`` of other sorts."""
    rng = np.random.default_rng([HELD_OUT_SEED, 5])
    injected = [*drawn(rng, count, False, SURE), *drawn(rng, count, True, SURE)]
    decoded = [item._replace(image=decoder_like(item.image, rng)) for item in injected]
    changed = [unlike(item, rng) for item in list(drawn(rng, count, True, SURE))]
    painted = [item for painting in generated(rng, count, imperfect) for item in natural(painting)]
    return Sets(injected, decoded, changed, painted)


def analyse(detector: Detector, items: Sequence[Marked], *, told: bool) -> list[Analysis | None]:
    """``analyse`` of ``world/localization.py``, a few images at a time."""
    starts = range(0, len(items), _AT_ONCE)
    return [
        answer
        for start in starts
        for answer in localization.analyse(detector, items[start : start + _AT_ONCE], told=told)
    ]


def score(items: Sequence[Marked], answers: Sequence[Analysis | None]) -> dict[str, float]:
    """Scores of answers.

    Returns:
        As ``evaluate`` of ``world/localization.py``, with boxes in place of regions and ``FOUND_IOU`` of this module,
        without the verdict. A score without images is left out. Also ``missed_pictures``, the share of flawed images
        without a reported region, and ``clean_regions``, the mean number of reported regions on a clean image.
    """
    read = [(item, answer) for item, answer in zip(items, answers, strict=True) if answer is not None]
    flawed = [(item, answer) for item, answer in read if item.found]
    clean = [answer for item, answer in read if not item.found]
    hits = [hit for item, answer in flawed for hit in hits_of(item, answer, _overlap, FOUND_IOU)]
    scores = {"unreadable": 1 - len(read) / len(items)}
    if hits:
        scores["found"] = float(np.mean([hit.found for hit in hits]))
        scores["right_category"] = float(np.mean([hit.right for hit in hits if hit.found] or [False]))
        scores["pixel_f1"] = pixel_f1([(answer.mask, union(item.masks, answer.size)) for item, answer in flawed])
        scores["missed_pictures"] = float(np.mean([not answer.regions for _, answer in flawed]))
    if clean:
        scores["clean_claimed"] = float(np.mean([bool(answer.regions) for answer in clean]))
        scores["clean_regions"] = float(np.mean([len(answer.regions) for answer in clean]))
    for kind in sorted({hit.kind for hit in hits}):
        scores[f"found/{kind}"] = float(np.mean([hit.found for hit in hits if hit.kind == kind]))
    return scores


def _overlap(region: Region, mask: Mask) -> float:
    truth = box_of(mask)
    return region_iou([region.box] if region.box else [], [truth] if truth else [])


def measure(detector: Detector, sets: Sets) -> dict[str, float]:
    """All scores by ``<set>/<score>``. The detector gets the captions, except for ``untold/<score>``: the natural set
    without captions."""
    scores: dict[str, float] = {}
    for name, items in sets._asdict().items():
        own = score(items, analyse(detector, items, told=True))
        scores |= {f"{name}/{key}": value for key, value in own.items() if "/" not in key or name == "injected"}
    own = score(sets.natural, analyse(detector, sets.natural, told=False))
    return scores | {f"untold/{key}": value for key, value in own.items() if "/" not in key}


def measure_folder(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` for the model in a folder. Masks are filled boxes, so that only the model's own boxes count."""
    detector = load_vlm(folder, grounder="box")
    return measure(detector, held_out(count, bundled_generator(run.weights)))
