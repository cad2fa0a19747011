"""How often the bundled models visibly repair an example: prompts of two things, several seeds, counted by the referee.

The example prompts of README, docs, help and demo, with their seeds, were chosen from this list: they are runs that
show what a repair looks like, not runs that are typical. The gallery (``make gallery``) is not chosen, and
``refiner micro bench`` measures what refinement does on average.

Each line has the referee's flaws (``refiner.micro.oracle``) and their share of the image before and after, the seed and
the prompt. ``--images`` keeps before and after of the runs that got better.

Run with ``python tests/benchmarks/examples.py [--prompts N] [--seeds N] [--images DIR] [--json]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from refiner import RefinedPipeline
from refiner.micro.oracle import inspect
from refiner.pipelines.bench import cases
from refiner.reports.overlays import before_after
from refiner.types import RefinementResult

THINGS = 2
"""Things of a scene; more make long prompts, and single ones gain little."""


class Row(NamedTuple):
    """One run."""

    prompt: str
    seed: int
    flaws: tuple[int, int]
    """Before and after."""
    area: tuple[float, float]
    """The share of their pixels, in [0, 1]."""


def run(pipe: RefinedPipeline, prompts: int, seeds: int) -> Iterator[tuple[Row, RefinementResult]]:
    """Refine each prompt with each seed, as a user would."""
    scenes = [case.scene for case in cases(2 * THINGS * prompts, 1) if len(case.scene.things) == THINGS][:prompts]
    for scene in scenes:
        for seed in range(seeds):
            result = pipe(scene.caption, seed=seed).results[0]
            start = result.attempts[0].image
            assert start is not None
            found = [inspect(image, scene) for image in (start, result.image)]
            yield (
                Row(
                    prompt=scene.caption,
                    seed=seed,
                    flaws=(found[0].count, found[1].count),
                    area=(found[0].area, found[1].area),
                ),
                result,
            )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=Path, help="folder for before and after of the runs that were repaired")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    rows: list[Row] = []
    for row, result in run(pipe, options.prompts, options.seeds):
        rows.append(row)
        pair = before_after(result)
        if options.images is not None and row.flaws[1] < row.flaws[0] and pair is not None:
            options.images.mkdir(parents=True, exist_ok=True)
            pair.save(options.images / f"{len(rows):03d}.png")
        if not options.json:
            areas = " -> ".join(f"{100 * share:4.1f} %" for share in row.area)
            print(
                f"{len(rows):03d}  {row.flaws[0]} -> {row.flaws[1]}  {areas}  seed {row.seed}  {row.prompt}", flush=True
            )
    if options.json:
        print(json.dumps([row._asdict() for row in rows]))
        return
    flawed = [row for row in rows if row.flaws[0]]
    better, whole = sum(row.flaws[1] < row.flaws[0] for row in flawed), sum(not row.flaws[1] for row in flawed)
    print(f"{len(rows)} runs, {len(flawed)} of them start with flaws: {better} get better, {whole} end without flaws")


if __name__ == "__main__":
    main()
