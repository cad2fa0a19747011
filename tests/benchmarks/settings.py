"""Compare settings of the loop with the defaults, on scenes of the micro world.

Each scene is refined with the same seed by all settings, so that all start from the same image. The referee
(``refiner.micro.oracle``, which knows the truth of a scene) counts the flaws of the results. The scenes are not those
of ``refiner micro bench``: choose settings here and measure them there. Differences have bootstrap 95 % intervals over
scenes.

Run with ``python tests/benchmarks/settings.py order='"largest"' candidates=2,max_candidates=4 [--scenes N] [--json]``.
``soft_edge`` and ``mixed_strengths`` need ``--generator-repaints``: the bundled inpainter takes a binary mask as input,
and these settings need a model without a mask input.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from numpy.typing import NDArray
from tqdm import tqdm

from refiner import RefinedPipeline
from refiner.metrics.intervals import bootstrap_interval
from refiner.micro.oracle import inspect
from refiner.micro.world import Scene, sample_scene

SEED = 77
MEASURES = ("flaws", "rows", "looks", "seconds")
Settings = Mapping[str, Any]


def scenes(count: int) -> Iterator[Scene]:
    """Scenes of one, two, three and four things (objects) in equal numbers."""
    for number in range(count):
        yield sample_scene(np.random.default_rng([SEED, number]), count=1 + number % 4)


def parsed(text: str) -> Settings:
    """``a=1,b=2`` as a mapping."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}


def refined(pipe: RefinedPipeline, scene: Scene, number: int, settings: Settings) -> tuple[float, list[float]]:
    """Flaws of the first image, and the ``MEASURES`` of the refinement."""
    began = time.process_time()
    result = pipe.stream(scene.caption, seed=number, config=replace(pipe.refine_config, **settings)).result
    seconds = time.process_time() - began
    before, after = (inspect(image, scene).count for image in (result.attempts[0].image, result.image))
    return before, [after, result.calls.denoiser_rows, result.calls.detector_calls, seconds]


def compared(table: NDArray[np.float64]) -> dict[str, Any]:
    """Means of a table (scenes, 2, measures), and the differences of the second of each pair from the first."""
    change = table[:, 1] - table[:, 0]
    mean = table.mean(axis=0)
    return {
        name: {
            "mean": round(float(mean[1, place]), 3),
            "difference": round(float(mean[1, place] - mean[0, place]), 3),
            "ci95": [round(bound, 3) for bound in bootstrap_interval(change[:, place], resamples=5000)],
        }
        for place, name in enumerate(MEASURES)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="+", help="name=value of RefineConfig, several joined by commas")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--detector", default="micro")
    parser.add_argument(
        "--generator-repaints", action="store_true", help="inpaint with the generator instead of the inpainter"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    pipe = RefinedPipeline.from_pretrained("micro", detector=options.detector)
    if options.generator_repaints:
        pipe = pipe.with_parts(inpainter=None, inpaint_call=None)
    pipe.set_progress_bar_config(disable=True)
    trials = [{}, *map(parsed, options.settings)]
    runs = [
        [refined(pipe, scene, number, settings) for settings in trials]
        for number, scene in enumerate(tqdm(scenes(options.scenes), total=options.scenes))
    ]
    table = np.array([[measures for _, measures in run] for run in runs], dtype=np.float64)
    document = {
        "scenes": options.scenes,
        "start_flaws": float(np.mean([run[0][0] for run in runs])),
        "usual": dict(zip(MEASURES, table[:, 0].mean(axis=0).round(3).tolist(), strict=True)),
        "settings": {text: compared(table[:, [0, place]]) for place, text in enumerate(options.settings, start=1)},
    }
    print(json.dumps(document, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
