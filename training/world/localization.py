"""Measure how well a detector finds the flaws of held-out images of the micro world."""

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
"""Scenes that are generated in one batch."""
FOUND_IOU = 0.25
"""Smallest IoU of a reported region with a true region, for which the true region counts as found."""


class Marked(NamedTuple):
    """One image and its true regions."""

    image: Pixels
    """Uint8 (96, 96, 3)."""
    caption: str
    masks: NDArray[np.bool_]
    """Bool (R, 96, 96)."""
    kinds: tuple[str, ...]
    """Kind of flaw of each region."""
    categories: tuple[Category, ...]


def _marked(image: Pixels, scene: Scene, regions: Sequence[Region], kinds: Sequence[str]) -> Marked:
    masks = np.zeros((len(regions), SIZE, SIZE), dtype=np.bool_)
    for row, region in enumerate(regions):
        masks[row] = region.pixels(Size(SIZE, SIZE))
    return Marked(image, scene.caption, masks, tuple(kinds), tuple(region.category for region in regions))


def held_out(count: int, clean: bool, seed: int = HELD_OUT_SEED, decoded: bool = False) -> list[Marked]:
    """Make held-out images.

    Args:
        count: number of images.
        clean: whether all images have no flaw; else all have at least one.
        seed: seed of the images.
        decoded: whether every image goes through the imitated autoencoder.
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
    """One analysis for each image with its caption. None: the detector's answer is unreadable."""
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
    return score(detector, held_out(count, False, seed, decoded), held_out(count, True, seed, decoded))


def evaluate_natural(detector: Detector, imperfect: ImperfectGenerator, count: int) -> dict[str, float]:
    """The same scores on at least ``count`` held-out images from the generator, with its own flaws."""
    rng, items = np.random.default_rng(HELD_OUT_SEED), list[Marked]()
    while len(items) < count:
        for painting in paint(rng, _PAINTED, imperfect):
            for image, scene, flaws in zip(painting.pictures, painting.scenes, painting.flaws, strict=True):
                regions = regions_of(flaws, scene)
                items.append(_marked(image, scene, regions, ["malformed"] * len(regions)))
    return score(detector, [item for item in items if item.kinds], [item for item in items if not item.kinds])


def score(detector: Detector, flawed: Sequence[Marked], clean: Sequence[Marked]) -> dict[str, float]:
    """Scores on the given images, as ``evaluate`` returns them."""
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
    """All held-out scores of a detector.

    Returns:
        The scores on exact renders. Under ``decoded/`` and ``natural/``, without single kinds of flaws, the scores
        after the imitated autoencoder and on images from the generator.
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
