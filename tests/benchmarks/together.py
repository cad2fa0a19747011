"""Several prompts refined together, against one by one: the same decisions, in less time.

``here``: eight prompts with the bundled models. ``endpoint``: the same with a detector behind a server on loopback that
answers after 100 ms. Each way runs ``--repeats`` times, in turn; the ratio is that of the fastest runs. ``same``:
whether all decisions are equal; ``differ``: largest share of an image's values that differ, none by more than a level.
``resumed``: ``refiner refine --prompts`` on ``--count`` prompts, killed with SIGKILL at random moments and resumed each
time, writes the same images and records as a run without kills.

Run with ``make bench`` or ``python tests/benchmarks/together.py [--repeats N] [--count N] [--kills N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.faulty_server import FaultyServer

from refiner.micro.world import sample_scene
from refiner.pipelines import RefinedPipeline
from refiner.types import RefinementResult

SEED, PROMPTS = 20261201, 8


def prompts(count: int) -> list[str]:
    """Captions of drawn scenes."""
    rng = np.random.default_rng(SEED)
    return [sample_scene(rng).caption for _ in range(count)]


def decisions(results: Sequence[RefinementResult]) -> list[Any]:
    """What was done for each image, what it cost, and what was kept."""
    return [
        (each.best, each.stop, [(one.action, one.seed, one.accepted, one.calls, one.error) for one in each.attempts])
        for each in results
    ]


def differing(first: Image.Image, second: Image.Image) -> float:
    """Share of the values that differ."""
    steps = np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int))
    return float((steps > 0).mean()) if steps.max() <= 1 else 1.0


def compared(pipe: RefinedPipeline, texts: Sequence[str], repeats: int) -> dict[str, Any]:
    """Seconds of both ways, and whether they agree."""
    pipe(texts[0], seed=SEED)  # warm up
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    found: dict[str, list[RefinementResult]] = {}
    for _ in range(repeats):
        for name, size in (("together", None), ("alone", 1)):
            began = time.monotonic()
            found[name] = pipe(list(texts), seed=SEED, batch_images=size).results
            seconds[name].append(time.monotonic() - began)
    pairs = zip(found["together"], found["alone"], strict=True)
    shares = [differing(one.image, other.image) for one, other in pairs if one.image and other.image]
    fastest = {name: min(times) for name, times in seconds.items()}
    return {
        **{name: round(value, 2) for name, value in fastest.items()},
        "ratio": round(fastest["alone"] / fastest["together"], 2),
        "same": decisions(found["together"]) == decisions(found["alone"]),
        "differ": max(shares),
    }


def here(repeats: int) -> dict[str, Any]:
    """The bundled models."""
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    return compared(pipe, prompts(PROMPTS), repeats)


def endpoint(repeats: int) -> dict[str, Any]:
    """The same with a detector behind a server; it finds a flaw in half of all images, by their data."""
    server = FaultyServer(latency=0.1, late=1, share=0)
    detector = f"vlm:Qwen3-VL@{server.url},grounder=box,concurrency=16"
    pipe = RefinedPipeline.from_pretrained("micro", detector=detector, judge=None)
    pipe.set_progress_bar_config(disable=True)
    found = compared(pipe, prompts(PROMPTS), repeats)
    server.stop()
    return {name: value for name, value in found.items() if name not in ("same", "differ")}


def start(file: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``refiner refine --prompts`` in a process of its own."""
    command = [sys.executable, "-P", "-m", "refiner", "refine", "--prompts", str(file), "--out", str(out)]
    own = ["--rounds", "1", "--seed", "7"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, *own, *options], **quiet)  # type: ignore[call-overload,no-any-return]


def written(out: Path) -> dict[str, Any]:
    """The images of a run, and its records without times and machine."""
    found: dict[str, Any] = {
        file.relative_to(out).as_posix(): Image.open(file).tobytes() for file in out.rglob("*.png")
    }
    for file in out.glob("images/*/run.json"):
        record = json.loads(file.read_bytes())
        found[file.relative_to(out).as_posix()] = {name: row for name, row in record.items() if name != "environment"}
    return found | {"table": json.loads((out / "refinements.json").read_bytes())}


def resumed(count: int, kills: int) -> dict[str, Any]:
    """A run that is killed and resumed, against one that is not."""
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        file = root / "prompts.txt"
        file.write_text("\n".join(prompts(count)), encoding="utf-8")
        began = time.monotonic()
        start(file, root / "straight").wait()
        seconds = time.monotonic() - began
        done = kill_at(file, root / "again", sorted(chance.uniform(0, count) for _ in range(kills)))
        start(file, root / "again", "--resume").wait()
        same = written(root / "straight") == written(root / "again")
    return {"prompts": count, "seconds": round(seconds, 1), "killed_after": done, "same": same}


def kill_at(file: Path, out: Path, marks: Sequence[float]) -> list[int]:
    """Kill a run each time when about that many prompts are done; how many were."""
    done: Callable[[], int] = lambda: len(list(out.glob("images/*/run.json")))  # noqa: E731
    found = []
    for mark in marks:
        process = start(file, out, "--resume")
        while process.poll() is None and done() < mark:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found.append(done())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = {
        "here": here(args.repeats), "endpoint": endpoint(args.repeats), "resumed": resumed(args.count, args.kills)
    }  # fmt: skip
    if args.json:
        print(json.dumps(report))
        return
    for name, figures in report.items():
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items())
        print(f"{name}: {told}")


if __name__ == "__main__":
    main()
