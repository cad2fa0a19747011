"""FakeXplain's ablation (papers/fakexplain.md, table 4) at the micro world's size.

Every arm starts from the bundled chat model and learns from drawn images without the flaw kinds in ``HELD_OUT``.

* ``no fine-tuning``: the bundled chat model, asked as it is;
* ``SFT``: only the supervised stage;
* ``GRPO, w=1``, ``GRPO, w=0.5``, ``GRPO, progressive``: that model after GRPO with this weight of the boxes' reward;
* ``without boxes``, ``without captions``, ``without tags``, ``label only``: both stages, answers without these parts.

Sets of images: ``scenes``: held-out scenes with the flaw kinds of the training; ``kinds``: the same with the held-out
kinds; ``paintings``: generated images, with the flaws that the referee finds (``refiner.micro.oracle``). Masks are
filled boxes. Figures: balanced accuracy of the verdict, IoU of the areas of predicted and true boxes, BLEU-2, ROUGE-L,
boxes on a flawed image; means over images. Answers end after ``LONGEST`` tokens. With several seeds: mean, and lowest
and highest seed.

It takes hours. Each arm is kept in ``--out`` and resumed from there; ``--arms`` and ``--seeds`` choose some of them.

Run with ``python tests/benchmarks/fakexplain.py [--out DIR] [--seeds 0,1,2] [--arms NAME,NAME] [--json]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.files import atomic_write, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import FLAWS
from refiner.training.chat.eval import Row, measured, summary
from refiner.training.fakexplain.recipe import micro, train_on
from refiner.training.fakexplain.settings import FakexplainSettings
from refiner.training.runs import Run
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.injected import InjectedData, painted
from refiner.training.world.scores import HELD_OUT_SEED

HELD_OUT = ("extra_finger", "third_eye", "missing_shadow", "colour_bleed", "second_sun")
IMAGES = 20_000  # images that an arm may learn from
SFT_STEPS, GRPO_STEPS, ANSWERS = 700, 60, 48
LONGEST = 256  # tokens of an answer; right ones have fewer than 150
SETS = ("scenes", "kinds", "paintings")
COLUMNS = ("balanced_accuracy", "box_iou", "bleu_2", "rouge_l", "boxes", "unreadable")
OMEGAS = {"GRPO, w=1": "full", "GRPO, w=0.5": "half", "GRPO, progressive": "progressive"}
PARTS = {
    "without boxes": ("boxes",),
    "without captions": ("captions",),
    "without tags": ("tags",),
    "label only": ("boxes", "captions", "tags"),
}
ARMS = ("no fine-tuning", "SFT", *OMEGAS, *PARTS)


def settings_of(arm: str, seed: int) -> FakexplainSettings:
    """The settings of an arm. Those with ``OMEGAS`` start from the model of the arm ``SFT``."""
    own = micro()
    sft = replace(own.sft, most_steps=SFT_STEPS)
    grpo = replace(own.grpo, most_steps=GRPO_STEPS, batch=ANSWERS, omega=OMEGAS.get(arm, "progressive"))
    stage = "sft" if arm == "SFT" else "grpo" if arm in OMEGAS else "both"
    return replace(own, stage=stage, leave_out=PARTS.get(arm, ()), sft=sft, grpo=grpo, seed=seed, merged=False)


def train(arm: str, seed: int, out: Path) -> str:
    """Train an arm, or resume it; returns the id of its detector."""
    if arm == "no fine-tuning":
        return "fakexplain:micro:vlm,grounder=box"
    folder = folder_of(arm, seed, out)
    if not (folder / "model" / "fakexplain.json").exists():
        settings = settings_of(arm, seed)
        if arm in OMEGAS:
            train("SFT", seed, out)
            settings = replace(settings, base=str(folder_of("SFT", seed, out) / "model"))
        data = InjectedData(IMAGES, without=HELD_OUT)
        rows = np.random.default_rng(seed).permutation(IMAGES).tolist()
        train_on(settings, data, rows, Run(folder=folder, device="cpu"), folder / "model")
    return f"fakexplain:{folder / 'model'},grounder=box"


def folder_of(arm: str, seed: int, out: Path) -> Path:
    """The folder of an arm's run."""
    return out / f"{arm.replace(',', '').replace(' ', '-')}-{seed}"


@cache
def samples(name: str, count: int) -> tuple[Sample, ...]:
    """The held-out images of a set."""
    if name == "paintings":
        return tuple(painted(ImperfectGenerator(MICRO_WEIGHTS / "generator"), count))
    without = HELD_OUT if name == "scenes" else tuple(kind for kind in FLAWS if kind not in HELD_OUT)
    data = InjectedData(count, without, seed=HELD_OUT_SEED)
    return tuple(data.load(index) for index in range(count))


def measure(arm: str, seed: int, out: Path, count: int) -> dict[str, dict[str, float]]:
    """The scores of an arm on each set, which are kept in its folder."""
    file = folder_of(arm, seed, out) / f"scores-{count}.json"
    if file.exists():
        found: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    detector: Any = load_detector(train(arm, seed, out), device="cpu")
    detector.backend.max_tokens = LONGEST
    rows: Mapping[str, list[Row]] = {name: list(measured(detector, iter(samples(name, count)))) for name in SETS}
    scores = {name: summary(own) for name, own in rows.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, dumps(scores) + "\n")
    return scores


def show(report: Mapping[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print a table for each set."""
    for name in SETS:
        print(f"\n{name:20s}{''.join(f'{column:>24s}' for column in COLUMNS)}")
        for arm, runs in report.items():
            cells = []
            for column in COLUMNS:
                values = [run[name][column] for run in runs if column in run[name]]
                spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "-")
            print(f"{arm:20s}{''.join(f'{cell:>24s}' for cell in cells)}")


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/fakexplain-ablation"))
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the first five arms; the others have one (0)")
    parser.add_argument("--arms", default=",".join(name.replace(",", ";") for name in ARMS), help="; in place of ,")
    parser.add_argument("--count", type=int, default=200, help="images of each set (200)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    arms = [name.replace(";", ",") for name in args.arms.split(",")]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    report: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        own = [0] if arm == "no fine-tuning" or arm in PARTS else seeds
        report[arm] = [measure(arm, seed, args.out, args.count) for seed in own]
    if args.json:
        print(json.dumps(report))
        return
    show(report)


if __name__ == "__main__":
    main()
