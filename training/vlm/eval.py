"""Measure a detector on held-out images of the micro world, with and without their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.detectors.vlm.detector import load_vlm
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of, union
from refiner.metrics.boxes import region_iou
from refiner.protocols import Detector
from refiner.training.runs import Run
from refiner.training.vlm.data import UNSEEN, Shown, draw, natural, unlike
from refiner.training.world.flaws import ImperfectGenerator, bundled_generator
from refiner.training.world.labels import KIND_NAMES, decoder_like
from refiner.training.world.paintings import paint
from refiner.training.world.scores import HELD_OUT_SEED, pixel_f1
from refiner.types import Analysis, Box

FOUND_IOU = 0.3
"""Smallest IoU of a reported box with the box of a true region, for which the true region counts as found."""
_PAINTED = 20
"""Scenes that are generated in one batch."""
_AT_ONCE = 8
"""Images that are analysed in one batch."""


class Sets(NamedTuple):
    """Held-out images."""

    injected: list[Shown]
    """Exact renders, half of them with injected flaws."""
    decoded: list[Shown]
    """The same images after an imitated round trip through an autoencoder."""
    unlike: list[Shown]
    """Clean images whose caption asks for something else than they show."""
    natural: list[Shown]
    """Images from the generator, with and without flaws."""


def held_out(count: int, imperfect: ImperfectGenerator) -> Sets:
    """Make the held-out images: ``count`` flawed and ``count`` clean renders, and at least ``count`` of other sorts."""
    rng = np.random.default_rng([HELD_OUT_SEED, 5])
    injected = [*_drawn(rng, count, 0.0), *_drawn(rng, count, 1.0)]
    decoded = [item._replace(image=decoder_like(item.image, rng)) for item in injected]
    changed = [unlike(item, rng) for item in _drawn(rng, count, 1.0)]
    painted: list[Shown] = []
    while len(painted) < count:
        painted += [item for painting in paint(rng, _PAINTED, imperfect) for item in natural(painting)]
    return Sets(injected, decoded, changed, painted)


def _drawn(rng: np.random.Generator, count: int, clean_share: float) -> list[Shown]:
    """``count`` images, all without flaws (share 1.0) or all with flaws (share 0.0)."""
    items: list[Shown] = []
    while len(items) < count:
        item = draw(rng, clean_share)
        items += [item] if bool(item.found) == (clean_share == 0.0) else []
    return items


def analyse(detector: Detector, items: Sequence[Shown], *, told: bool) -> list[Analysis | None]:
    """One analysis for each image. ``told``: whether the detector gets the captions. None: the answer is unreadable."""
    answers: list[Analysis | None] = []
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        images = [Image.fromarray(item.image) for item in part]
        captions = [item.caption for item in part] if told else None
        try:
            answers += detector.batch(images, captions)
        except UnreadableOutputError:
            pairs = zip(images, part, strict=True)
            answers += [_alone(detector, image, item.caption if told else None) for image, item in pairs]
    return answers


def _alone(detector: Detector, image: Image.Image, caption: str | None) -> Analysis | None:
    try:
        return detector(image, caption)
    except UnreadableOutputError:
        return None


def score(items: Sequence[Shown], answers: Sequence[Analysis | None]) -> dict[str, float]:
    """Scores of answers.

    Returns:
        All scores except ``clean_regions`` are in [0, 1]. A score without images is left out.

        * ``found``: share of true regions whose box overlaps a reported box with an IoU of at least ``FOUND_IOU``;
        * ``found/<kind>``: the same for each kind of flaw;
        * ``right_category``: share of the found regions with the right category;
        * ``pixel_f1``: F1 over the pixels of all flawed images together;
        * ``missed_pictures``: share of flawed images without a reported region;
        * ``clean_claimed``: share of clean images with a reported region;
        * ``clean_regions``: mean number of reported regions on a clean image;
        * ``unreadable``: share of all images whose answer is unreadable.
    """
    read = [(item, answer) for item, answer in zip(items, answers, strict=True) if answer is not None]
    flawed = [(item, answer) for item, answer in read if item.found]
    clean = [answer for item, answer in read if not item.found]
    hits: list[tuple[str, bool, bool]] = []
    for item, answer in flawed:
        hits += _hits(item, answer)
    scores = {"unreadable": 1 - len(read) / len(items)}
    if hits:
        scores["found"] = float(np.mean([hit for _, hit, _ in hits]))
        scores["right_category"] = float(np.mean([right for _, hit, right in hits if hit] or [False]))
        scores["pixel_f1"] = pixel_f1([(answer.mask, union(item.masks, answer.size)) for item, answer in flawed])
        scores["missed_pictures"] = float(np.mean([not answer.regions for _, answer in flawed]))
    if clean:
        scores["clean_claimed"] = float(np.mean([bool(answer.regions) for answer in clean]))
        scores["clean_regions"] = float(np.mean([len(answer.regions) for answer in clean]))
    for kind in sorted({kind for kind, _, _ in hits}):
        scores[f"found/{kind}"] = float(np.mean([hit for name, hit, _ in hits if name == kind]))
    return scores


def _hits(item: Shown, answer: Analysis) -> list[tuple[str, bool, bool]]:
    """For each true region: its kind, whether it is found, and whether its category is right."""
    rows = []
    for found, mask, kind in zip(item.found, item.masks, item.kinds, strict=True):
        truth = box_of(mask)
        overlaps = [_overlap(region.box, truth) for region in answer.regions]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= FOUND_IOU
        name = "unlike" if kind == UNSEEN else KIND_NAMES[kind]
        rows.append((name, hit, hit and answer.regions[best].category == found.category))
    return rows


def _overlap(claimed: Box, truth: Box | None) -> float:
    return region_iou([claimed], [] if truth is None else [truth])


def measure(detector: Detector, sets: Sets) -> dict[str, float]:
    """All scores by ``<set>/<score>``. The detector gets the captions, except for ``untold/<score>``: the natural set
    without captions."""
    scores: dict[str, float] = {}
    rows = {"injected": sets.injected, "decoded": sets.decoded, "unlike": sets.unlike, "natural": sets.natural}
    for name, items in rows.items():
        own = score(items, analyse(detector, items, told=True))
        scores |= {f"{name}/{key}": value for key, value in own.items() if "/" not in key or name == "injected"}
    own = score(sets.natural, analyse(detector, sets.natural, told=False))
    return scores | {f"untold/{key}": value for key, value in own.items() if "/" not in key}


def measure_folder(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` for the model in a folder. Masks are filled boxes, so that only the model's own boxes count."""
    detector = load_vlm(folder, grounder="box")
    return measure(detector, held_out(count, bundled_generator(run.weights)))
