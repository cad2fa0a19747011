"""How well a detector finds the flaws of held-out pictures of the micro world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors import load_detector
from refiner.errors import UnreadableOutputError
from refiner.masks import iou, union
from refiner.micro.world import SIZE, Scene
from refiner.protocols import Detector
from refiner.taxonomy import Category
from refiner.training.runs import Run
from refiner.training.world.flaws import ImperfectGenerator, Pixels, bundled_generator, regions_of
from refiner.training.world.labels import decoder_like
from refiner.training.world.paintings import paint
from refiner.training.world.scenes import draw_injected
from refiner.training.world.scores import HELD_OUT_SEED, pixel_f1
from refiner.types import Analysis, Region, Size

_PAINTED = 20
"""Scenes that are painted at once."""
FOUND_IOU = 0.25
"""A true region is found when one claimed region overlaps it at least this much."""


class Marked(NamedTuple):
    """One picture and its true regions."""

    image: Pixels
    """Uint8 (96, 96, 3)."""
    caption: str
    masks: NDArray[np.bool_]
    """Bool (R, 96, 96)."""
    kinds: tuple[str, ...]
    """Of flaw, one for each region."""
    categories: tuple[Category, ...]


def _marked(image: Pixels, scene: Scene, regions: Sequence[Region], kinds: Sequence[str]) -> Marked:
    masks = np.zeros((len(regions), SIZE, SIZE), dtype=np.bool_)
    for row, region in enumerate(regions):
        masks[row] = region.pixels(Size(SIZE, SIZE))
    return Marked(image, scene.caption, masks, tuple(kinds), tuple(region.category for region in regions))


def held_out(count: int, clean: bool, seed: int = HELD_OUT_SEED, decoded: bool = False) -> list[Marked]:
    """``count`` pictures, all clean or all with one flaw or more.

    Args:
        decoded: let every picture go through the imitated autoencoder.
    """
    rng = np.random.default_rng((seed, int(clean)))
    items: list[Marked] = []
    while len(items) < count:
        picture = draw_injected(rng, clean_share=1.0 if clean else 0.0)
        item = _marked(np.asarray(picture.image), picture.scene, picture.regions, picture.kinds)
        if bool(item.kinds) != clean:
            items.append(item._replace(image=decoder_like(item.image, rng)) if decoded else item)
    return items


def analyse(detector: Detector, items: Sequence[Marked]) -> list[Analysis | None]:
    """One analysis a picture and its caption, None where the detector's text could not be read."""
    images, captions = [Image.fromarray(item.image) for item in items], [item.caption for item in items]
    try:
        return list(detector.batch(images, captions))
    except UnreadableOutputError:
        return [_alone(detector, *pair) for pair in zip(images, captions, strict=True)]


def _alone(detector: Detector, image: Image.Image, caption: str) -> Analysis | None:
    try:
        return detector(image, caption)
    except UnreadableOutputError:
        return None


def evaluate(
    detector: Detector, count: int = 500, seed: int = HELD_OUT_SEED, decoded: bool = False
) -> dict[str, float]:
    """Scores on ``count`` flawed and ``count`` clean held-out pictures; all in [0, 1].

    Returns:
        ``pixel_f1`` (pooled over the flawed pictures), ``found`` (share of true regions that a claimed region
        overlaps with IoU of at least ``FOUND_IOU``), ``right_category`` (share of the found ones whose category is
        right), ``verdict_accuracy`` (balanced, at probability 0.5), ``clean_claimed`` (share of clean pictures on
        which a region is claimed), ``unreadable`` (share of all pictures), and for each kind of flaw
        ``found/<kind>`` and ``right_category/<kind>``.
    """
    return score(detector, held_out(count, False, seed, decoded), held_out(count, True, seed, decoded))


def evaluate_natural(detector: Detector, imperfect: ImperfectGenerator, count: int) -> dict[str, float]:
    """The same scores on at least ``count`` held-out pictures that the generator painted, wherever it went wrong."""
    rng, items = np.random.default_rng(HELD_OUT_SEED), list[Marked]()
    while len(items) < count:
        for painting in paint(rng, _PAINTED, imperfect):
            for image, scene, flaws in zip(painting.pictures, painting.scenes, painting.flaws, strict=True):
                regions = regions_of(flaws, scene)
                items.append(_marked(image, scene, regions, ["malformed"] * len(regions)))
    return score(detector, [item for item in items if item.kinds], [item for item in items if not item.kinds])


def score(detector: Detector, flawed: Sequence[Marked], clean: Sequence[Marked]) -> dict[str, float]:
    """Scores on given pictures, as ``evaluate`` returns them."""
    answers, clean_answers = analyse(detector, flawed), analyse(detector, clean)
    read = [(item, answer) for item, answer in zip(flawed, answers, strict=True) if answer is not None]
    clean_read = [answer for answer in clean_answers if answer is not None]
    hits: dict[str, list[bool]] = defaultdict(list)
    named: dict[str, list[bool]] = defaultdict(list)
    for item, answer in read:
        _score_regions(item, answer, hits, named)
    caught = np.mean([(answer.fake_probability or 0.0) > 0.5 for _, answer in read] or [False])
    spared = np.mean([(answer.fake_probability or 0.0) <= 0.5 for answer in clean_read] or [False])
    scores = {
        "pixel_f1": pixel_f1([(answer.mask, union(item.masks, answer.size)) for item, answer in read]),
        "found": float(np.mean([hit for row in hits.values() for hit in row] or [False])),
        "right_category": float(np.mean([hit for row in named.values() for hit in row] or [False])),
        "verdict_accuracy": float((caught + spared) / 2),
        "clean_claimed": float(np.mean([bool(answer.regions) for answer in clean_read] or [False])),
        "unreadable": 1 - (len(read) + len(clean_read)) / (len(flawed) + len(clean)),
    }
    scores |= {f"found/{kind}": float(np.mean(row)) for kind, row in sorted(hits.items())}
    return scores | {f"right_category/{kind}": float(np.mean(row)) for kind, row in sorted(named.items())}


def _score_regions(item: Marked, answer: Analysis, hits: dict[str, list[bool]], named: dict[str, list[bool]]) -> None:
    for mask, category, kind in zip(item.masks, item.categories, item.kinds, strict=True):
        overlaps = [iou(region.pixels(answer.size), mask) for region in answer.regions]
        best = int(np.argmax(overlaps)) if overlaps else -1
        found = best >= 0 and overlaps[best] >= FOUND_IOU
        hits[kind].append(found)
        if found:
            named[kind].append(answer.regions[best].category == category)


def measure(detector: Detector, imperfect: ImperfectGenerator, count: int = 500) -> dict[str, float]:
    """All held-out scores: on exact pictures, and without the kinds under ``decoded/`` and ``natural/``."""
    scores = evaluate(detector, count)
    decoded = evaluate(detector, count, decoded=True)
    natural = evaluate_natural(detector, imperfect, count)
    for name, others in (("decoded", decoded), ("natural", natural)):
        scores |= {f"{name}/{key}": value for key, value in others.items() if "/" not in key}
    return scores


def measure_detector(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` of the detector in a folder, with the generator among the run's weights."""
    return measure(load_detector(folder), bundled_generator(run.weights), count)
