"""The bundled vision-language model beside LEGION on the same held-out pictures of the micro world.

``found`` is the share of the true regions whose box a claimed one overlaps with IoU of at least 0.3; ``category`` the
share of these whose category is right; ``f1`` that of pixels, pooled over the flawed pictures; ``claimed`` the share
of the clean pictures on which a region is claimed. Sets: ``injected`` flaws; ``decoded``, the same through an imitated
autoencoder; ``unlike``, clean pictures whose caption asks for something else; ``natural``, what the generator painted,
with the referee's flaws; ``untold``, the same without the captions.

Run with ``make bench`` or ``python tests/benchmarks/vlm.py [--count N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from refiner.detectors import load_detector
from refiner.detectors.vlm.detector import VlmDetector
from refiner.hub import MICRO_WEIGHTS
from refiner.protocols import Detector
from refiner.training.vlm.eval import held_out, measure
from refiner.training.world.flaws import ImperfectGenerator

SETS = ("injected", "decoded", "unlike", "natural", "untold")
COLUMNS = {
    "found": "found",
    "category": "right_category",
    "f1": "pixel_f1",
    "claimed": "clean_claimed",
    "unreadable": "unreadable",
}


def vlm(grounder: str, *, two_step: bool = True) -> Detector:
    """The bundled vision-language model with a grounder."""
    detector = load_detector(f"vlm:micro:vlm,grounder={grounder}", device="cpu")
    assert isinstance(detector, VlmDetector)
    detector.two_step = two_step
    return detector


DETECTORS: dict[str, Callable[[], Detector]] = {
    "micro:legion": lambda: load_detector("micro:legion", device="cpu"),
    "micro:vlm, boxes": lambda: vlm("box"),
    "micro:vlm, boxes, one-step": lambda: vlm("box", two_step=False),
    "micro:vlm, grabcut": lambda: vlm("grabcut"),
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="pictures of each sort")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sets = held_out(args.count, ImperfectGenerator(MICRO_WEIGHTS / "generator"))
    report = {name: measure(build(), sets) for name, build in DETECTORS.items()}
    if args.json:
        print(json.dumps(report))
        return
    for name, scores in report.items():
        print(f"\n{name:28s}{''.join(f'{column:>12s}' for column in COLUMNS)}")
        for group in SETS:
            cells = (scores.get(f"{group}/{key}") for key in COLUMNS.values())
            texts = ("-" if cell is None else f"{cell:.3f}" for cell in cells)
            print(f"  {group:26s}{''.join(f'{text:>12s}' for text in texts)}")


if __name__ == "__main__":
    main()
