"""Whether ``refiner rank`` orders generators as the referee does, on the micro world.

The bundled generator generates images of held-out prompts with three numbers of denoiser steps. ``refiner rank`` ranks
the three with the bundled detector and judge, or with the detectors of ``--detector``. The referee
(``refiner.micro.oracle``, which knows the truth of a scene and was not used to train them) counts the flaws of the same
images. Intervals and shares of won bootstrap draws are computed over the same prompts in the same way for both.

Run with ``make bench`` or ``python tests/benchmarks/rank.py [--prompts N] [--seeds N] [--steps N N N]
[--detector ID] [--detector ID] [--out DIR] [--json]``. With ``--out``, an interrupted run is continued.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from refiner.cli.main import main as refiner
from refiner.evaluate.ranking import open_prompts
from refiner.evaluate.systems import picture_file
from refiner.images import load_image
from refiner.metrics.ranking import Ranking, rank_by_score
from refiner.micro.oracle import inspect

STEPS = (2, 4, 10)
"""The referee can tell these apart on few prompts; 10 and 25 steps need many more prompts."""


def ranked(
    prompts: str, seeds: int, steps: list[int], detectors: list[str], folder: Path
) -> tuple[dict[str, Any], list[Any]]:
    """The ranking of ``refiner rank`` by each detector, and how they agree (empty for one)."""
    systems = [f"{count} steps=micro,num_inference_steps={count}" for count in steps]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        settings = ["--prompts", prompts, "--seeds", str(seeds), "--judge", "micro", "--out", str(folder)]
        settings += [word for detector in detectors for word in ("--detector", detector)]
        code = refiner(["rank", *systems, *settings, "--resume", "--json"])
    if code > 1:  # 1: the detector refuses some very bad images; they are counted, and left out for all generators
        raise SystemExit(code)
    document: dict[str, Any] = json.loads(said.getvalue())
    if len(detectors) == 1:
        return {detectors[0]: document}, []
    return {row["name"]: row["ranking"] for row in document["detectors"]}, document["agreement"]


def refereed(prompts: str, seeds: int, names: list[str], folder: Path) -> Ranking:
    """The same images ranked by the number of flaws that the referee counts."""
    wanted = open_prompts(prompts, seeds=seeds)
    flaws = {
        name: {
            picture: float(inspect(load_image(picture_file(folder / name, picture)), prompt).count)
            for picture, prompt in wanted.prompts.items()
        }
        for name in sorted(names)
    }
    return rank_by_score(flaws, name="flaws", higher_is_better=False, prompts_of=wanted.prompts_of)


def measure(prompts: int, seeds: int, steps: list[int], detectors: list[str], folder: Path) -> dict[str, Any]:
    """Orders, values with intervals, and shares of won draws, for each detector and the referee."""
    specification = f"micro-prompts:{prompts}"
    rankings, agreement = ranked(specification, seeds, steps, detectors, folder)
    names = [f"{count} steps" for count in steps]
    referee = refereed(specification, seeds, names, folder)
    order = [row.name for row in referee.rows]
    return {
        "prompts": prompts,
        "seeds": seeds,
        "referee": {
            "order": order,
            "figures": {row.name: row.estimates["flaws"]._asdict() for row in referee.rows},
            "wins": [referee.duels[pair].overall for pair in itertools.pairwise(order)],
        },
        "detectors": {name: _beside(document, order) for name, document in rankings.items()},
        "agreement": agreement,
    }


def _beside(document: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """A detector's ranking beside the referee's order."""
    figures = {system["name"]: dict(system["figures"]) for system in document["systems"]}
    return {
        "pictures": document["of"],
        "compared": document["pictures"],
        "orders": document["orders"],
        "same_order": {by: found == order for by, found in document["orders"].items()},
        "wins_along_the_referee's_order": {
            by: [table[a][b]["overall"] for a, b in itertools.pairwise(order)] for by, table in document["wins"].items()
        },
        "figures": {name: figures[name] for name in order},
        "signature": document["signature"],
    }


def show(report: dict[str, Any]) -> None:
    """Print a report for people."""
    referee = report["referee"]
    print(f"{report['prompts']} prompts; 95 % intervals over prompts; the referee counts all images")
    for name, each in referee["figures"].items():
        print(f"{name}: flaws {_told(each)}")
    print(f"referee: {', '.join(referee['order'])}; draws won along its order: {_shares(referee['wins'])}")
    for detector, own in report["detectors"].items():
        print(f"\n{detector}: {own['compared']} of {own['pictures']} images could be compared")
        for name, row in own["figures"].items():
            cells = [f"{key} {_told(row[key])}" for key in ("CAP", "MAI", "AF", "PAR", "HPS") if key in row]
            print(f"{name}: {'; '.join(cells)}")
        for by, order in own["orders"].items():
            verdict = "the referee's order" if own["same_order"][by] else "another order"
            won = _shares(own["wins_along_the_referee's_order"][by])
            print(f"{by}: {', '.join(order)} ({verdict}); draws won along the referee's order: {won}")
    for pair in report["agreement"]:
        told = ", ".join(f"{name} {_told(tau)}" for name, tau in pair["tau"].items())
        print(f"\nKendall's tau of {pair['one']} and {pair['other']}: {told}")


def _told(each: dict[str, float]) -> str:
    return f"{each['value']:.3g} ({each['low']:.3g} to {each['high']:.3g})"


def _shares(wins: list[float]) -> str:
    return ", ".join(f"{100 * share:.3g} %" for share in wins)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--detector", action="append", help="may be repeated (micro)")
    parser.add_argument("--out", type=Path, help="folder that keeps images and records")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        report = measure(args.prompts, args.seeds, args.steps, args.detector or ["micro"], args.out or Path(home))
    if args.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
