"""Seconds from the start of the ``refiner`` command to its end, and the model's share of ``detect`` on one image.

Each figure is the median of several processes. ``help`` is ``refiner --help``; ``refusal`` is a refused ``--rounds
-1``, ``unknown`` an unknown recipe. ``endpoint`` is ``detect`` with a detector at an address where no server listens.
``libraries`` is Python alone with torch, transformers and torchvision, which the bundled detector needs.
``detect`` is ``refiner detect`` on one drawing of the micro world. ``image`` is what one more image costs, from a run
on many, one at a time. ``model_share`` is that divided by ``detect``. ``large`` is ``detect`` with an X-AIGD that is as
large as published ones (random weights), and ``large_share`` the part of it that ``libraries`` does not take. Seconds
are processor time, so other work on the machine counts little; ``detect``, ``large`` and ``libraries`` run in one
thread.

Run with ``make bench`` or ``python tests/benchmarks/startup.py [--repeats N] [--images N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from refiner.detectors.xaigd.config import XaigdConfig
from refiner.detectors.xaigd.detector import save_xaigd
from refiner.detectors.xaigd.modeling import XaigdModel
from refiner.micro.world import render, sample_scene

REFINER = (sys.executable, "-P", "-m", "refiner")
LIBRARIES = "import torch, torchvision.transforms, transformers.modeling_utils"


def seconds(command: Sequence[str], folder: Path, expected: int = 0) -> float:
    """Processor seconds of one process, which must end with the expected exit code."""
    quiet = subprocess.DEVNULL
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=one, stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise RuntimeError(f"Expected exit code {expected} of {' '.join(command)}, got {process.returncode}.")
    return usage.ru_utime + usage.ru_stime


def save_large(folder: Path) -> Path:
    """Write a detector of the size of published ones, 305 million parameters, with random weights."""
    backbone = {
        "model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 518, "patch_size": 14, "mlp_ratio": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    save_xaigd(XaigdModel(XaigdConfig(backbone=backbone, image_size=518, heatmap="rollout")), folder)
    return folder


def measure(repeats: int, images: int, folder: Path) -> dict[str, float]:
    """All figures, from drawings that are written to a folder."""
    rng = np.random.default_rng(0)
    names = [f"{index}.png" for index in range(images + 1)]
    for name in names:
        render(sample_scene(rng)).save(folder / name)
    detect = (*REFINER, "detect", "--device", "cpu", "--batch-size", "1")
    commands = {
        "help": ((*REFINER, "--help"), 0),
        "refusal": ((*REFINER, "refine", "a red hand", "--rounds", "-1"), 2),
        "unknown": ((*REFINER, "train", "nosuch"), 2),
        "endpoint": ((*detect, "--detector", "vlm:model@http://127.0.0.1:9/v1,attempts=1", names[0]), 1),
        "libraries": ((sys.executable, "-P", "-c", LIBRARIES), 0),
        "detect": ((*detect, names[0]), 0),
        "many": ((*detect, *names), 0),
        "large": ((*detect, "--detector", f"xaigd:{save_large(folder / 'large')}", names[0]), 0),
    }
    found = {
        name: statistics.median(seconds(command, folder, code) for _ in range(repeats))
        for name, (command, code) in commands.items()
    }
    found["image"] = (found.pop("many") - found["detect"]) / images
    found["model_share"] = found["image"] / found["detect"]
    found["large_share"] = 1 - found["libraries"] / found["large"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes for each figure (5)")
    parser.add_argument("--images", type=int, default=20, help="further images, which show what one costs (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.repeats, args.images, Path(folder))
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:12} {value:8.3f}")


if __name__ == "__main__":
    main()
