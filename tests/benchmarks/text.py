"""Precision and recall of the detector of lettering on rendered images, and its agreement with the referee on signs.

Each rendered image has two signs with letters of 12 to 52 pixels. The first is right, misspelt, unreadable (its letters
are garbled), doubled or missing; the second is right. A word counts as found if the detector says that it is not as
wanted, or there once too often. The referee (``refiner.micro.oracle``) is the program that knows the true scene of an
image of the micro world; half of the signs that it and the reader judge here have a garbled or missing letter.

Seconds are processor time on images of which each is read alone, so other work on the machine counts little.

Run with ``make bench`` or ``python tests/benchmarks/text.py [--pictures N] [--timed N] [--signs N] [--json]``.
Needs the extra ``text`` and the fonts that ``.ci/run`` installs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.lettering import KINDS, WORDS, Lettered, flagged, lettered

from refiner.detectors import load_detector
from refiner.metrics.agreement import cohen_kappa
from refiner.micro.flaws import inject
from refiner.micro.oracle import inspect
from refiner.micro.things import KINDS as THINGS
from refiner.micro.world import render, sample_scene
from refiner.pipelines.signs import SignsRead, installed_reader, read_signs

SCRIPTS = tuple(WORDS)
FLAWS = ("garbled_letter", "missing_letter")
SIDES = (512, 1024, 2048)


def cases(pictures: int, seed: int) -> Iterator[Lettered]:
    """Images of all kinds and scripts in turn."""
    for number in range(pictures):
        yield lettered(seed + number, KINDS[number % len(KINDS)], SCRIPTS[number // len(KINDS) % len(SCRIPTS)], 12)


def measured(pictures: int, seed: int) -> dict[str, Any]:
    """Precision and recall of wrong words, of all images, by kind and by script."""
    detector, rows = load_detector("text"), []
    for shown in cases(pictures, seed):
        found, wrong = flagged(detector(shown.image, shown.prompt)), {word.upper() for word in shown.wrong}
        rows.append((shown.kind, shown.script, len(found & wrong), len(found), len(wrong)))
    groups = {"all": rows}
    groups |= {kind: [row for row in rows if row[0] == kind] for kind in KINDS}
    groups |= {script: [row for row in rows if row[1] == script] for script in SCRIPTS}
    return {"words": {name: _shares(own) for name, own in groups.items()}}


def seconds(pictures: int, seed: int) -> dict[int, float]:
    """Processor seconds of an image, without loading, by the side of a square image in pixels."""
    detector, found = load_detector("text"), {}
    for side in SIDES:
        shown = [(each.image.resize((side, side)), each.prompt) for each in cases(pictures + 1, seed)]
        detector(*shown[0])
        began = time.process_time()
        for image, prompt in shown[1:]:
            detector(image, prompt)
        found[side] = (time.process_time() - began) / pictures
    return found


def _shares(rows: list[tuple[str, str, int, int, int]]) -> dict[str, float | int | None]:
    hits, found, wrong = (sum(row[place] for row in rows) for place in (2, 3, 4))
    return {
        "images": len(rows),
        "wrong": wrong,
        "false": found - hits,
        "precision": hits / found if found else None,
        "recall": hits / wrong if wrong else None,
    }


def signs(count: int, seed: int) -> dict[str, Any]:
    """The agreement of reader and referee on signs of the micro world, of all words and of each."""
    reader = installed_reader()
    assert reader is not None
    pairs: list[tuple[str, SignsRead]] = []
    number = 0
    while len(pairs) < count:
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(rng, count=1 + number % 4)
        number += 1
        words = [thing.attribute for thing in scene.things if thing.kind == "sign"]
        if len(words) != 1:
            continue
        image = inject(scene, rng, len(scene.things), FLAWS).image if number % 2 else render(scene)
        pairs.append((words[0], read_signs(image, scene, inspect(image, scene), reader)))
    return {word: _agreement([read for own, read in pairs if word in ("all", own)]) for word in ("all", *_words())}


def _words() -> tuple[str, ...]:
    return THINGS["sign"].attributes


def _agreement(pairs: list[SignsRead]) -> dict[str, Any]:
    referee, reader = ([bad for each in pairs for bad in each[place]] for place in (0, 1))
    kappa = cohen_kappa(referee, reader)
    return {"signs": len(referee), "referee": sum(referee), "reader": sum(reader), **kappa._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200, help="rendered images (200)")
    parser.add_argument("--timed", type=int, default=20, help="images of each size whose seconds are counted (20)")
    parser.add_argument("--signs", type=int, default=200, help="signs of the micro world (200)")
    parser.add_argument("--seed", type=int, default=1000, help="first seed of the images (1000)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = {"seconds": seconds(options.timed, options.seed), **measured(options.pictures, options.seed)}
    report |= {"signs": signs(options.signs, options.seed)}
    if options.json:
        print(json.dumps(report))
        return
    for side, spent in report["seconds"].items():
        print(f"{side} x {side} pixels: {spent:.2f} processor seconds an image")
    for name, row in report["words"].items():
        precision, recall = ("-" if row[key] is None else f"{row[key]:.1%}" for key in ("precision", "recall"))
        words = f"{row['wrong']} wrong words in {row['images']} images"
        print(f"{name:12s} {words}: precision {precision}, recall {recall}, {row['false']} false")
    for word, row in report["signs"].items():
        value = row["undefined"] or f"{row['value']:.2f}"
        value += "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
        wrong = f"wrong by referee {row['referee']}, by reader {row['reader']}"
        print(f"signs {word:6s} {row['signs']}, {wrong}: kappa {value}")


if __name__ == "__main__":
    main()
