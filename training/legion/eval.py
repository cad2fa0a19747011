"""Measure a detector on held-out pictures of the micro world, and write what was measured to its card."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refiner.detectors import load_detector
from refiner.errors import UnreadableOutputError
from refiner.hub import MICRO_WEIGHTS, write_card
from refiner.masks import iou, union
from refiner.protocols import Detector
from refiner.training.legion.data import KIND_NAMES, Drawn, decoder_like, draw, natural
from refiner.training.legion.recipe import micro_recipe
from refiner.training.world.flaws import Imperfect
from refiner.training.world.paintings import paint
from refiner.types import Analysis, Mask

HELD_OUT_SEED = 10_000_000
"""Pictures for measuring are drawn from here on; pools for training lie below."""
_PAINTED = 20
"""Scenes that are painted at once."""
FOUND_IOU = 0.25
"""A true region is found when one claimed region overlaps it at least this much."""


def held_out(count: int, clean: bool, seed: int = HELD_OUT_SEED, decoded: bool = False) -> list[Drawn]:
    """``count`` pictures, all clean or all with one flaw or more.

    Args:
        decoded: let every picture go through the imitated autoencoder.
    """
    rng = np.random.default_rng((seed, int(clean)))
    items: list[Drawn] = []
    while len(items) < count:
        item = draw(rng, clean_share=1.0 if clean else 0.0)
        if bool(item.kinds) != clean:
            items.append(item._replace(image=decoder_like(item.image, rng)) if decoded else item)
    return items


def analyse(detector: Detector, items: Sequence[Drawn]) -> list[Analysis | None]:
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


def pixel_f1(pairs: Sequence[tuple[Mask, Mask]]) -> float:
    """F1 over the pixels of all (claimed, true) pairs together, in [0, 1]; 0 where nothing is hit."""
    hits = sum(int((claimed & true).sum()) for claimed, true in pairs)
    total = sum(int(claimed.sum()) + int(true.sum()) for claimed, true in pairs)
    return 2 * hits / total if total else 0.0


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


def evaluate_natural(detector: Detector, imperfect: Imperfect, count: int) -> dict[str, float]:
    """The same scores on at least ``count`` held-out pictures that the generator painted, wherever it went wrong."""
    rng, items = np.random.default_rng(HELD_OUT_SEED), list[Drawn]()
    while len(items) < count:
        items += [item for painting in paint(rng, _PAINTED, imperfect) for item in natural(painting)]
    return score(detector, [item for item in items if item.kinds], [item for item in items if not item.kinds])


def score(detector: Detector, flawed: Sequence[Drawn], clean: Sequence[Drawn]) -> dict[str, float]:
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


def _score_regions(item: Drawn, answer: Analysis, hits: dict[str, list[bool]], named: dict[str, list[bool]]) -> None:
    for mask, finding, kind in zip(item.masks, item.findings, item.kinds, strict=True):
        overlaps = [iou(region.pixels(answer.size), mask) for region in answer.regions]
        best = int(np.argmax(overlaps)) if overlaps else -1
        found = best >= 0 and overlaps[best] >= FOUND_IOU
        hits[KIND_NAMES[kind]].append(found)
        if found:
            named[KIND_NAMES[kind]].append(answer.regions[best].category == finding.category)


def measure(detector: Detector, imperfect: Imperfect, count: int = 500) -> dict[str, float]:
    """All held-out scores: on exact pictures, and without the kinds under ``decoded/`` and ``natural/``."""
    scores = evaluate(detector, count)
    decoded = evaluate(detector, count, decoded=True)
    natural = evaluate_natural(detector, imperfect, count)
    for name, others in (("decoded", decoded), ("natural", natural)):
        scores |= {f"{name}/{key}": value for key, value in others.items() if "/" not in key}
    return scores


def write_scores(folder: Path, scores: Mapping[str, float]) -> None:
    """Write a detector's ``card.json`` with its scores."""
    recipe = micro_recipe()
    write_card(
        folder,
        name="legion-micro 8",
        recipe="python -P -m refiner.training.legion.recipe --run runs/legion --out DIR",
        seed=recipe.seed,
        data=f"micro world: {recipe.shards} shards of 1000 pictures from seed 1 on, two of three with the generator's "
        "own flaws, the others with injected ones (35 % clean, half decoder-like)",
        domain="micro",
        family="legion",
        scores={name: round(value, 4) for name, value in scores.items()},
        settings=dataclasses.asdict(recipe),
    )


def main() -> None:
    """``python -P -m refiner.training.legion.eval FOLDER [--card]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500, help="flawed pictures, and as many clean ones")
    parser.add_argument("--generator", type=Path, default=MICRO_WEIGHTS / "generator", help="whose own flaws to show")
    parser.add_argument("--card", action="store_true", help="write card.json into the folder")
    arguments = parser.parse_args()
    scores = measure(load_detector(arguments.folder), Imperfect(arguments.generator), arguments.count)
    if arguments.card:
        write_scores(arguments.folder, scores)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
