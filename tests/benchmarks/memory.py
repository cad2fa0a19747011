"""Peak memory of RefinedPipeline relative to its base pipeline and detector, at equal batch size.

Each side runs in turn in separate processes, which print the peak of their resident set. ``base``: the diffusers
pipeline generates a batch of as many images as ``RefinedPipeline`` inpaints regions, and the detector analyses them.
``refined``: ``RefinedPipeline`` generates one image and inpaints this number of regions, in two rounds. ``judged``: the
same with the bundled judge, a network that scores the image against the prompt; the base has none.

Run with ``make bench`` or ``python tests/benchmarks/memory.py [--regions N] [--repeats N] [--json]``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from refiner import RefineConfig, RefinedPipeline, load_detector
from refiner.detectors.scripted import ScriptedDetector
from refiner.hub import resolve
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

PROMPT = "a red hand with five fingers on a sky background"
CALL = {"num_inference_steps": 15, "guidance_scale": 3.0}
CELL = 24
"""Side of a region, in pixels."""


def base(regions: int) -> None:
    """Generate and analyse."""
    pipe, detector = _loaded(), load_detector("micro")
    pictures = pipe([PROMPT] * regions, **CALL).images
    detector.batch(pictures, [PROMPT] * regions)


def refined(regions: int, judge: str | None = None) -> None:
    """Generate, analyse and inpaint. The detector runs, but its answer is replaced by fixed regions."""
    detector, severities = load_detector("micro"), (0.8**number for number in itertools.count())

    def answer(image: Image.Image) -> Analysis:
        detector(image)
        places = itertools.islice(itertools.product(range(0, 96, CELL), repeat=2), regions)
        severity = next(severities)
        found = [
            Region(mask=None, box=(x, y, x + CELL, y + CELL), name="x", category=Category.SHAPE, severity=severity)
            for x, y in places
        ]
        return Analysis(size=Size(image.height, image.width), regions=tuple(found), detector="made up")

    batch = {"max_regions": regions, "max_candidates": 1}  # else a region that failed fills several rows of the batch
    config = RefineConfig(strategy="inpaint", max_rounds=2, strengths=(1.0,), dilate=0.0, **batch)
    pipe = RefinedPipeline(_loaded(), detector=ScriptedDetector(answer), judge=judge, config=config, call=CALL)
    (result,) = pipe(PROMPT, seed=0).results
    rows = [attempt.calls.denoiser_rows for attempt in result.attempts]
    assert rows[1] >= 2 * CALL["num_inference_steps"] * regions, rows


def _loaded() -> Any:
    pipe = DiffusionPipeline.from_pretrained(resolve("micro", "generator"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


SIDES = {"base": base, "refined": refined, "judged": lambda regions: refined(regions, "micro")}


def peak(side: str, regions: int) -> float:
    """Peak memory of a process, in MiB."""
    command = [sys.executable, "-P", __file__, "--side", side, "--regions", str(regions)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        torch.set_num_threads(1)
        SIDES[options.side](options.regions)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    turns = [{side: peak(side, options.regions) for side in SIDES} for _ in range(options.repeats)]
    document: dict[str, Any] = {"mib": {side: [round(turn[side], 1) for turn in turns] for side in SIDES}}
    for side in ("refined", "judged"):
        ratios = [turn[side] / turn["base"] for turn in turns]
        document[f"{side}_over_base"] = {
            "median": round(statistics.median(ratios), 4),
            "range": [round(min(ratios), 4), round(max(ratios), 4)],
        }
    print(json.dumps(document, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
