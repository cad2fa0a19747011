"""AlignGemini's central claim (papers/aligngemini.md) at the micro world's size: models, supervision, and their fit.

The chat model and the pixel expert each learn from semantic and from pixel supervision:

* ``chat/semantic``: the bundled chat model on drawn images with semantic flaws, its pixel cues destroyed (the branch);
* ``chat/pixel``: the same model on drawn images and their reconstructions, with the cues kept, and verdicts alone;
* ``expert/pixel``: the pixel expert on clean drawn images and their reconstructions (the branch);
* ``expert/semantic``: the same network on clean drawn images and the same scenes with semantic flaws.

``aligned`` fuses the two branches by ``or``, ``crossed`` the other two. Figures: balanced accuracy on held-out images
with semantic flaws (``semantic``), on reconstructions (``pixel``), on both kinds (``mixture``), and on drawn images
with flaws of all kinds (``injected``). With several seeds: mean, and lowest and highest seed.

It takes hours. Each model is kept in ``--out`` and resumed from there; ``--models`` and ``--seeds`` choose some.

Run with ``python tests/benchmarks/aligngemini.py [--out DIR] [--seeds 0,1,2] [--models NAME,NAME] [--json]``.
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
from PIL import Image

from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.files import atomic_write, dumps
from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import inject
from refiner.micro.world import render, sample_scene
from refiner.training.aligngemini.drawn import KINDS, Case, DrawnPairs, semantic_data
from refiner.training.aligngemini.eval import balanced_accuracy, chances, sets_of
from refiner.training.aligngemini.expert import train_pixel
from refiner.training.aligngemini.pairs import Pair, Pairs
from refiner.training.aligngemini.recipe import micro, train_semantic
from refiner.training.runs import Run
from refiner.types import Analysis, Size

MODELS = ("chat/semantic", "chat/pixel", "expert/pixel", "expert/semantic")
FUSED = {"aligned": ("chat/semantic", "expert/pixel"), "crossed": ("chat/pixel", "expert/semantic")}
SETS = ("semantic", "pixel", "mixture", "injected")
_SEED = 7_200_000


class Budget(argparse.Namespace):
    """What the command line says about the cost."""

    images: int
    pairs: int
    chat_steps: int
    expert_steps: int
    count: int


class SemanticPairs:
    """Clean scenes, and the same scenes with semantic flaws: semantic supervision for the pixel expert."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Pair:
        rng = np.random.default_rng([_SEED, place])
        scene = sample_scene(rng)
        return Pair(render(scene), inject(scene, rng, int(rng.integers(1, len(scene.things) + 1)), KINDS).image)


class PixelSamples:
    """Clean drawn images and their reconstructions, with verdicts alone: pixel supervision for the chat model."""

    def __init__(self, pairs: Pairs) -> None:
        self.problems: list[Problem] = []
        self.pairs = pairs
        self.names = tuple(f"{place:06d}-{kind}" for place in range(len(pairs)) for kind in ("real", "fake"))

    def load(self, index: int) -> Sample:
        place, fake = divmod(index, 2)
        image: Image.Image = self.pairs[place][fake]
        truth = None if fake else Analysis(size=Size(image.height, image.width), detector="truth")
        return Sample(name=self.names[index], image=image, fake=bool(fake), truth=truth)


def drawn_pairs(out: Path, count: int) -> DrawnPairs:
    """The pairs, which all models and seeds share."""
    pairs = DrawnPairs(count, Run(folder=out))
    pairs.make()
    return pairs


def train(model: str, seed: int, out: Path, budget: Budget) -> str:
    """Train a model, or resume it; returns the id of its detector."""
    kind, supervision = model.split("/")
    folder = out / f"{kind}-{supervision}-{seed}"
    place, run, own = folder / "model", Run(folder=folder, device="cpu"), micro()
    if kind == "chat":
        if not (place / "aligngemini.json").exists():
            blur = own.semantic.blur if supervision == "semantic" else 0.0
            stage = replace(own.semantic.sft, most_steps=budget.chat_steps)
            settings = replace(own.semantic, seed=seed, sft=stage, blur=blur, merged=False)
            semantic = semantic_data(budget.images)
            data: Any = semantic if supervision == "semantic" else PixelSamples(drawn_pairs(out, budget.pairs))
            rows = np.random.default_rng(seed).permutation(len(data.names)).tolist()
            train_semantic(settings, data, rows, run, place)
        return f"semantic:{place},grounder=box"
    if not (place / "config.json").exists():
        pairs: Pairs = SemanticPairs(budget.pairs) if supervision == "semantic" else drawn_pairs(out, budget.pairs)
        pixel = replace(own.pixel, seed=seed, most_steps=budget.expert_steps)
        train_pixel(pixel, pairs, run, place, torch.float32)
    return f"dda:{place}"


@cache
def samples(count: int) -> Mapping[str, list[Case]]:
    """The held-out sets."""
    return sets_of(count, Run(folder=Path(), weights=MICRO_WEIGHTS))


def answers(model: str, seed: int, out: Path, budget: Budget) -> dict[str, list[float]]:
    """The probabilities of a model on each set, which are kept in its folder; -1: an unreadable answer."""
    file = out / f"{model.replace('/', '-')}-{seed}" / f"answers-{budget.count}.json"
    if file.exists():
        found: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    detector: Any = load_detector(train(model, seed, out, budget), device="cpu")
    told = {
        name: np.nan_to_num(chances(detector, [case.image for case in cases]), nan=-1.0).tolist()
        for name, cases in samples(budget.count).items()
    }
    atomic_write(file, dumps(told) + "\n")
    return told


def measure(seed: int, out: Path, models: list[str], budget: Budget) -> dict[str, dict[str, float]]:
    """Balanced accuracy by model and set; of the fused ones where both of their models were chosen."""
    told = {model: answers(model, seed, out, budget) for model in models}
    for name, both in FUSED.items():
        if set(both) <= told.keys():
            told[name] = {key: [*map(max, told[both[0]][key], told[both[1]][key])] for key in SETS}
    truths = {name: [case.fake for case in cases] for name, cases in samples(budget.count).items()}
    return {
        model: {
            name: balanced_accuracy(np.where(np.array(own[name]) < 0, np.nan, own[name]), truths[name]) for name in SETS
        }
        for model, own in told.items()
    }


def show(runs: list[dict[str, dict[str, float]]]) -> None:
    """Print the table."""
    print(f"{'':18s}{''.join(f'{name:>24s}' for name in SETS)}")
    for model in runs[0]:
        cells = []
        for name in SETS:
            values = [run[model][name] for run in runs]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        print(f"{model:18s}{''.join(f'{cell:>24s}' for cell in cells)}")


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/aligngemini-crossed"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--images", type=int, default=20_000, help="drawn images that the chat model may learn from")
    parser.add_argument("--pairs", type=int, default=2_000, help="pairs that the expert learns from")
    parser.add_argument("--chat-steps", type=int, default=700)
    parser.add_argument("--expert-steps", type=int, default=1_000)
    parser.add_argument("--count", type=int, default=200, help="images of each kind in each set (200)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(namespace=Budget())
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    models, seeds = args.models.split(","), [int(seed) for seed in args.seeds.split(",")]
    runs = [measure(seed, args.out, models, args) for seed in seeds]
    if args.json:
        print(json.dumps(dict(zip(map(str, seeds), runs, strict=True))))
        return
    show(runs)


if __name__ == "__main__":
    main()
