"""X-AIGD's experiments (papers/x-aigd.md) at the micro world's size: tasks, attention alignment, and their cost.

All arms learn from the same drawn pairs, without the flaw kinds in ``HELD_OUT``.

* ``AJ``, ``PAD``, ``multi``: the verdict alone, the masks alone, both at once;
* ``transfer``, ``probe``: the verdict after the masks, with all weights of ``PAD`` or only a new head on them;
* ``saliency 0.4``, ``random 0.4``, ``artifact 0`` to ``artifact 1``: ``multi`` with the heat map of its verdict aligned
  to that, and this weight of patches without artifacts (the paper's lambda). ``multi`` is the arm without alignment.

All arms start from the bundled judge's CLIP, as the bundled detector does, with fewer and smaller steps. The masks are
learnt beside the verdict; ``--task aj`` aligns without masks, and ``AJ`` is then the arm without alignment.

Sets of images: ``scenes``: held-out scenes with the flaw kinds of the training; ``variant``: images from the bundled
generator, with the flaws that the referee finds (``refiner.micro.oracle``); ``kinds``: scenes with the held-out kinds;
``compressed``: ``scenes`` after JPEG. Figures: those of ``refiner.training.xaigd.eval``; with several seeds: mean, and
lowest and highest seed. Accuracy against fidelity, the paper's diagnosis: correlation of a flawed image's share of
flawed pixels (PAR) with whether it is called generated, with a bootstrap 95 % interval over the images of all seeds;
and for each generator of ``variant`` (``refiner.training.world.paintings``), the mean of both. The paper's
NIQE is missing: it compares the statistics of many blocks of 96 x 96 pixels, and an image here is one such block.

``--cost`` only measures one training step with and without alignment. Everything else takes hours: each arm is kept in
``--out`` and resumed from there.

Run with ``python tests/benchmarks/xaigd.py [--out DIR] [--seeds 0,1,2] [--arms NAME,NAME] [--steps N] [--json]``.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.files import atomic_write, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.metrics.intervals import bootstrap_interval
from refiner.micro.flaws import FLAWS
from refiner.training.fit import Draw
from refiner.training.runs import Run
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.injected import InjectedData, painted
from refiner.training.world.paintings import VIEWS
from refiner.training.world.scores import HELD_OUT_SEED
from refiner.training.xaigd.data import collate
from refiner.training.xaigd.drawn import DrawnPairs
from refiner.training.xaigd.eval import Row, rows_of, summary
from refiner.training.xaigd.losses import Trainee
from refiner.training.xaigd.model import start_from
from refiner.training.xaigd.recipe import train_drawn
from refiner.training.xaigd.settings import AlignmentSettings, XaigdSettings, micro

HELD_OUT = ("extra_finger", "third_eye", "missing_shadow", "colour_bleed", "second_sun")
SETS = ("scenes", "variant", "kinds", "compressed")
COLUMNS = ("f1", "precision", "recall", "balanced_accuracy", "heat_iou", "mask_iou", "clean_claimed")
TASKS = {"AJ": "aj", "PAD": "pad", "multi": "multi", "transfer": "aj", "probe": "aj"}
AFTER_PAD = ("transfer", "probe")
ALIGNED = ("saliency 0.4", "random 0.4", "artifact 0", "artifact 0.4", "artifact 0.6", "artifact 1")
ARMS = (*TASKS, *ALIGNED)
BATCH, EMA = 16, 0.98  # smaller than those of the bundled detector, because the trainings are short
BETA = 50.0  # the loss of the maps is about 0.01, that of the verdicts 0.5; with a weight of 1, no arm differs
QUALITIES = (30, 60)  # of the compressed set


def settings_of(arm: str, seed: int, steps: int, task: str) -> XaigdSettings:
    """The settings of an arm."""
    own = replace(micro(), seed=seed, most_steps=steps, batch=BATCH, warmup=steps // 10, ema=EMA)
    own = replace(own, alignment=AlignmentSettings())
    if arm in TASKS:
        frozen = arm == "probe"
        return replace(
            own, task=TASKS[arm], frozen=frozen, learning_rate=3e-4 if arm == "transfer" else own.learning_rate
        )
    kind, benign = arm.split()
    return replace(own, task=task, alignment=replace(micro().alignment, kind=kind, benign=float(benign), beta=BETA))


def folder_of(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of an arm's run."""
    task = f"-{options.task}-beta{BETA:g}" if arm in ALIGNED else ""
    return Path(options.out) / f"{arm.replace(' ', '-')}{task}-{options.steps}-{seed}"


def train(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Train an arm, or resume it; returns the folder of its model."""
    folder = folder_of(arm, seed, options)
    if not (folder / "model" / "config.json").exists():
        settings = settings_of(arm, seed, options.steps, options.task)
        if arm in AFTER_PAD:
            settings = replace(settings, base=str(train("PAD", seed, options)))
        pairs = DrawnPairs(Path(options.out) / "pairs", without=HELD_OUT, seed=seed)
        train_drawn(settings, pairs, Run(folder=folder, device="cpu"), folder / "model", torch.float32)
    return folder / "model"


@cache
def samples(name: str, count: int) -> tuple[Sample, ...]:
    """The held-out images of a set."""
    if name == "variant":
        return tuple(painted(ImperfectGenerator(MICRO_WEIGHTS / "generator"), count))
    if name == "compressed":
        rng = np.random.default_rng([HELD_OUT_SEED, 9])
        return tuple(replace(sample, image=_compressed(sample, rng)) for sample in samples("scenes", count))
    without = tuple(kind for kind in FLAWS if kind not in HELD_OUT) if name == "kinds" else HELD_OUT
    data = InjectedData(count, without, seed=HELD_OUT_SEED)
    return tuple(data.load(index) for index in range(count))


def _compressed(sample: Sample, rng: np.random.Generator) -> Image.Image:
    assert sample.image is not None
    buffer = io.BytesIO()
    sample.image.save(buffer, format="JPEG", quality=int(rng.integers(*QUALITIES)))
    return Image.open(buffer).convert("RGB")


def measure(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The scores of an arm on each set, which are kept in its folder."""
    file = folder_of(arm, seed, options) / f"scores-{options.count}.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    detector = load_detector(f"xaigd:{train(arm, seed, options)},regions=all", device="cpu")
    scores: dict[str, Any] = {}
    for name in SETS:
        rows = list(rows_of(detector, samples(name, options.count)))
        fakes = [(row.par, float(row.judged)) for row in rows if row.fake and row.par > 0]
        scores[name] = {**summary(rows), "fakes": fakes}
        if name == "variant":
            scores[name]["generators"] = {
                view: _generator(rows[place :: len(VIEWS)]) for place, view in enumerate(VIEWS)
            }
    atomic_write(file, dumps(scores, indent=None) + "\n")
    return scores


def _generator(rows: Sequence[Row]) -> dict[str, float]:
    """Mean share of flawed pixels of a generator's images, and how often their verdicts are right."""
    return {
        "par": float(np.mean([row.par for row in rows])),
        "accuracy": float(np.mean([row.judged == row.fake for row in rows])),
    }


def fidelity(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """How the share of flawed pixels goes with being called generated, over the images of all runs."""
    pairs = np.array([pair for run in runs for pair in run[name]["fakes"]], dtype=np.float64).reshape(-1, 2)
    low, high = bootstrap_interval(pairs[:, 0], pairs[:, 1], statistic=correlation)
    return {"correlation": float(correlation(*pairs.T, axis=0)), "ci95": [low, high], "images": len(pairs)}


def correlation(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """Pearson's correlation along an axis; 0 where one of both is constant."""
    one, other = (values - values.mean(axis=axis, keepdims=True) for values in (first, second))
    spread = np.sqrt((one**2).sum(axis=axis) * (other**2).sum(axis=axis))
    return (one * other).sum(axis=axis) / np.where(spread > 0, spread, 1.0)


def cost(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the processor for one step (losses, gradients) without alignment, and with each number of layers."""
    settings = replace(micro(), alignment=AlignmentSettings())
    pairs = DrawnPairs(Path(options.out) / "pairs", shard=32)
    pairs.grow(1)
    model = start_from(settings)
    lessons = pairs.lessons(Draw(0), settings.batch // 2)
    batch = collate(lessons, model.config, model.side, "artifact", np.random.default_rng(0))
    trainee, found = Trainee(model, frozen=False), {}
    depth = settings.architecture.layers
    for layers in range(depth + 1):
        own = AlignmentSettings(kind="artifact" if layers else "none", layers=layers)
        seconds = []
        for _ in range(options.repeats):
            began = time.process_time()
            losses = trainee.losses(batch, replace(settings, alignment=own))
            torch.stack(list(losses.values())).sum().backward()
            seconds.append(time.process_time() - began)
            trainee.zero_grad()
        found[f"{layers} of {depth} layers" if layers else "without alignment"] = min(seconds)
    return found


def show(report: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print a table for each set, and the masks by category."""
    for name in SETS:
        categories = sorted({key for runs in report.values() for run in runs for key in run[name] if "iou/" in key})
        for columns in (COLUMNS, categories):
            titles = "".join(f"{column.removeprefix('iou/')[-22:]:>24s}" for column in columns)
            print(f"\n{name:16s}{titles}")
            for arm, runs in report.items():
                print(f"{arm:16s}{''.join(f'{_cell(runs, name, column):>24s}' for column in columns)}")
        print(f"\n{name}: correlation of the share of flawed pixels with the verdict")
        for arm, runs in report.items():
            found = fidelity(runs, name)
            low, high = found["ci95"]
            print(f"{arm:16s}{found['correlation']:8.3f} ({low:.3f} to {high:.3f}), {found['images']} images")
    print("\nvariant: mean share of flawed pixels, and accuracy, by generator")
    for arm, runs in report.items():
        means = {
            view: [np.mean([run["variant"]["generators"][view][key] for run in runs]) for key in ("par", "accuracy")]
            for view in VIEWS
        }
        print(f"{arm:16s}{''.join(f'{view:>14s} {par:.3f} {right:.3f}' for view, (par, right) in means.items())}")


def _cell(runs: Sequence[Mapping[str, Any]], name: str, column: str) -> str:
    values = [run[name][column] for run in runs if column in run[name]]
    spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}" if values else "-"


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/xaigd-ablation"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--steps", type=int, default=250, help="of each training (250)")
    parser.add_argument("--task", choices=("aj", "multi"), default="multi", help="of the arms with alignment (multi)")
    parser.add_argument("--count", type=int, default=300, help="images of each set (300)")
    parser.add_argument("--cost", action="store_true", help="only measure what a step costs")
    parser.add_argument("--repeats", type=int, default=3, help="steps of --cost, of which the fastest counts (3)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        found = cost(options)
        print(json.dumps(found, indent=None if options.json else 2))
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    arms = options.arms.split(",")
    runs = {(arm, seed): measure(arm, seed, options) for seed in seeds for arm in arms}
    report = {arm: [runs[arm, seed] for seed in seeds] for arm in arms}
    if options.json:
        print(json.dumps(report))
        return
    show(report)


if __name__ == "__main__":
    main()
