"""The bundled vision-language model and LEGION on the same held-out images of the micro world.

``found``: share of the true regions whose box overlaps a predicted box with an IoU of at least 0.3. ``category``: share
of these with the right category. ``f1``: F1 of pixels, pooled over the flawed images. ``claimed``: share of the clean
images with a predicted region. Sets: ``injected``: drawn flaws; ``decoded``: the same through an imitated autoencoder;
``unlike``: clean images whose caption asks for something else; ``natural``: generated images, with the flaws that the
referee finds (``refiner.micro.oracle``, which knows the truth of a scene); ``untold``: the same without the captions.

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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="images of each kind (200)")
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
