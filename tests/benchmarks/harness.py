"""The evaluation harness with a cheap detector: speed, memory over many samples, and resuming after kills.

``images_per_second``: records, table and report together, in wall time of one process, for images of 256x256.
``memory``: resident set of a process in MiB while it evaluates images of 64x64. They are small because the number of
samples matters here, not their size. ``after N``: the most memory at any time up to the N-th record. ``growth``: the
increase from the first twentieth (1,000 of 20,000 records) to the last record. ``whole``: the peak, table and report
included. ``kills``: how many runs gave the table of an uninterrupted run after they were killed with SIGKILL at random
points and resumed.

Run with ``make bench`` or ``python tests/benchmarks/harness.py [--samples N] [--kills N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from refiner.data.samples import Sample
from refiner.detectors.scripted import ScriptedDetector
from refiner.evaluate.harness import Progress, collect, describe
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.masks import box_of
from refiner.records import derive_seed
from refiner.reports.evaluation import write_report
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

SIDE, SMALL = 256, 64


class Probe(ScriptedDetector):
    """A detector that marks bright pixels as flawed and keeps no image."""

    def __init__(self) -> None:
        super().__init__([], name="probe")

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return _analysis(np.asarray(image)[..., 0] > 100)


class Squares:
    """Images with one bright square, drawn on demand. The true region differs slightly from the square."""

    def __init__(self, count: int, side: int) -> None:
        self.side = side
        self.problems: list = []
        self.names = tuple(f"{index:06d}" for index in range(count))

    def load(self, index: int) -> Sample:
        x, y, more = (derive_seed(name, index) % (self.side * 2 // 5) for name in ("x", "y", "side"))
        side = self.side // 12 + more
        image = Image.new("RGB", (self.side, self.side), (30, 60, 90))
        image.paste((200, 60, 90), (x, y, x + side, y + side))
        truth = np.zeros((self.side, self.side), dtype=np.bool_)
        truth[y + 3 : y + side, x : x + side] = True
        return Sample(name=self.names[index], image=image, truth=_analysis(truth))


def _analysis(mask: np.ndarray) -> Analysis:
    box = box_of(mask)
    assert box is not None
    region = Region(mask=mask, box=box, name="square", category=Category.SHAPE)
    return Analysis(size=Size(*mask.shape), regions=(region,), detector="probe")


def evaluate(
    folder: Path, count: int, side: int = SIDE, *, resume: bool = False, progress: Progress | None = None
) -> None:
    """A whole run, or the rest of one."""
    data, system = Squares(count, side), Looker(detector=Probe(), batch_size=8)
    description = describe("localization", data, {"specification": "squares"}, system, {})
    run = collect(data, system, description, folder, resume=resume, progress=progress)
    write_report(run, score(run), data)


def child(folder: Path, count: int, side: int = SIDE) -> subprocess.Popen[str]:
    """Start a run in a separate process. A run of small images prints its memory."""
    arguments = ["--child", str(folder), "--samples", str(count), "--side", str(side)]
    return subprocess.Popen([sys.executable, "-P", __file__, *arguments], stdout=subprocess.PIPE, text=True)


def watched(folder: Path, count: int) -> dict[str, float]:
    """Evaluate small images in this process and return its memory."""
    process, few, most, held = psutil.Process(), max(1, count // 20), 0.0, {}

    def progress(done: int, total: int) -> None:
        nonlocal most
        most = max(most, process.memory_info().rss / 2**20)
        if done == total or (done >= few and not held):
            held[f"after {done}"] = round(most, 1)

    evaluate(folder, count, SMALL, progress=progress)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    first, *_, last = held.values()
    return {**held, "growth": round(last / first - 1, 4), "whole": round(peak, 1)}


def survives(folder: Path, count: int, wanted: bytes) -> bool:
    """Whether a run that is killed twice and then resumed gives the table ``wanted``."""
    records = folder / "records.jsonl"
    for _ in range(2):
        process = child(folder, count)
        size = records.stat().st_size if records.exists() else 0
        target = size + random.randrange(1, 60_000)
        while process.poll() is None and (not records.exists() or records.stat().st_size < target):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    evaluate(folder, count, resume=True)
    return (folder / "table.json").read_bytes() == wanted


def measure(samples: int, kills: int) -> dict[str, object]:
    """All figures."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        said, _ = child(root / "memory", samples, SMALL).communicate()
        began = time.perf_counter()
        evaluate(root / "straight", 400)
        speed = 400 / (time.perf_counter() - began)
        wanted = (root / "straight/table.json").read_bytes()
        survived = sum(survives(root / f"kill-{number}", 400, wanted) for number in range(kills))
    return {
        "images_per_second": round(speed, 1),
        "memory": json.loads(said),
        "kills": f"{survived} of {kills}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        if args.side == SMALL:
            print(json.dumps(watched(args.child, args.samples)))
        else:
            evaluate(args.child, args.samples, resume=True)
        return
    report = measure(args.samples, args.kills)
    if args.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
