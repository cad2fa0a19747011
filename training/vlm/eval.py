"""Measure a detector that may read captions on held-out pictures of the micro world."""

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
"""A true region is found when the box of a claimed one overlaps its own at least this much."""
_PAINTED = 20
"""Scenes that are painted at once."""
_AT_ONCE = 8


class Sets(NamedTuple):
    """Held-out pictures; clean ones are in each."""

    injected: list[Shown]
    """Exact renders, half of them with injected flaws."""
    decoded: list[Shown]
    """The same through an imitated autoencoder."""
    unlike: list[Shown]
    """Clean ones whose caption asks for something else than they show."""
    natural: list[Shown]
    """What the generator painted."""


def held_out(count: int, imperfect: ImperfectGenerator) -> Sets:
    """``count`` flawed and as many clean pictures with injected flaws, ``count`` of the other sorts."""
    rng = np.random.default_rng([HELD_OUT_SEED, 5])
    injected = [*_drawn(rng, count, 0.0), *_drawn(rng, count, 1.0)]
    decoded = [item._replace(image=decoder_like(item.image, rng)) for item in injected]
    changed = [unlike(item, rng) for item in _drawn(rng, count, 1.0)]
    painted: list[Shown] = []
    while len(painted) < count:
        painted += [item for painting in paint(rng, _PAINTED, imperfect) for item in natural(painting)]
    return Sets(injected, decoded, changed, painted)


def _drawn(rng: np.random.Generator, count: int, clean_share: float) -> list[Shown]:
    """So many pictures, all clean or all flawed."""
    items: list[Shown] = []
    while len(items) < count:
        item = draw(rng, clean_share)
        items += [item] if bool(item.found) == (clean_share == 0.0) else []
    return items


def analyse(detector: Detector, items: Sequence[Shown], *, told: bool) -> list[Analysis | None]:
    """One analysis a picture, told its caption or not; None where the answer could not be read."""
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
    """Scores of the answers to pictures.

    Returns:
        ``found`` (share of the true regions whose box a claimed one overlaps with IoU of at least ``FOUND_IOU``),
        ``right_category`` (share of these), ``pixel_f1`` (pooled over the flawed pictures), ``clean_claimed`` (share
        of the clean pictures with a claimed region), ``clean_regions`` (claimed regions a clean picture),
        ``missed_pictures`` (share of the flawed pictures called clean), ``unreadable`` (share of all pictures), and
        ``found/<kind>`` for each kind of flaw; all but ``clean_regions`` in [0, 1]. What there is none of is left out.
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
    """For each true region its kind, whether it is found, and whether its category is right."""
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
    """All scores by ``<set>/<score>``; captions are told, but for ``untold/<score>``, of painted pictures."""
    scores: dict[str, float] = {}
    rows = {"injected": sets.injected, "decoded": sets.decoded, "unlike": sets.unlike, "natural": sets.natural}
    for name, items in rows.items():
        own = score(items, analyse(detector, items, told=True))
        scores |= {f"{name}/{key}": value for key, value in own.items() if "/" not in key or name == "injected"}
    own = score(sets.natural, analyse(detector, sets.natural, told=False))
    return scores | {f"untold/{key}": value for key, value in own.items() if "/" not in key}


def measure_folder(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` of the model in a folder, with filled boxes as masks, so that its boxes are its own."""
    detector = load_vlm(folder, grounder="box")
    return measure(detector, held_out(count, bundled_generator(run.weights)))
