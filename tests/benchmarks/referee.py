"""Accuracy of the referee: on clean renders, on blurred ones, and on every kind of injected flaw.

The referee (``refiner.micro.oracle``) is the program that knows the true scene of an image and counts its flaws.

Run with ``make bench`` or ``python tests/benchmarks/referee.py [--pictures N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.referee import referee_accuracy

SEED = 72


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pictures", type=int, default=8, help="images of each kind of flaw (8); eight times as many clean ones"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = referee_accuracy(options.pictures, SEED)
    if options.json:
        print(json.dumps(figures))
        return
    for name in ("clean", "softened"):
        print(f"{name:22s} {figures[name]['flaws']:.3f} flaws per image, {figures[name]['area']:.3%} of the pixels")
    for name, row in sorted(figures["kinds"].items(), key=lambda item: item[1]["iou"]):
        print(f"{name:22s} IoU {row['iou']:.2f}, found {row['found']:.0%}, {row['flaws']:.2f} flaws counted")
    print(f"{'all kinds':22s} IoU {figures['iou']:.2f}, found {figures['found']:.0%}")


if __name__ == "__main__":
    main()
