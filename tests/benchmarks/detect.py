"""``refiner detect`` on thousands of small images, against a server on loopback that is slow and spoils answers.

The server answers after 100 ms (``--latency``). It spoils 5 % of the requests in ten ways: 500, 503, 429 with
Retry-After, a dropped connection, a truncated answer, an answer after the timeout, an empty body, and a body that is no
JSON, each until the request comes again; and two kinds of answers that never can be read, malformed JSON and prose.

``accounted``: images with a record. ``answered`` and ``unreadable``: of these. ``paid_twice``: good answers that the
server sent more than once. ``used``: mean number of requests under way, as a share of the ``concurrency``, from the
first request to the last. ``peak_mib``: resident set of the process at its peak, for a tenth of the images and for all.
``kills``: a run over a tenth of the images is killed with SIGKILL at random moments and resumed each time: whether its
table is that of the run without kills, and how many good answers were under way when it was killed, and so were asked
for again. The table and the counts are those of ``refiner report``.

Run with ``make bench`` or ``python tests/benchmarks/detect.py [--count N] [--kills N] [--concurrency N]
[--latency SECONDS] [--json]``.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.faulty_server import FaultyServer, save_pictures

TIMEOUT = 5.0
SEED = 20261130


def start(folder: Path, out: Path, server: FaultyServer, concurrency: int, *options: str) -> subprocess.Popen[bytes]:
    """Start ``refiner detect`` in a process of its own."""
    detector = f"vlm:Qwen3-VL@{server.url},grounder=box,timeout={TIMEOUT},concurrency={concurrency}"
    command = [sys.executable, "-P", "-m", "refiner", "detect", str(folder), "--detector", detector]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "--out", str(out), *options], **quiet)  # type: ignore[call-overload,no-any-return]


def finished(process: subprocess.Popen[bytes]) -> float:
    """Wait for a run; its peak of memory in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1), process.returncode
    return usage.ru_maxrss / 1024


def table_of(out: Path) -> dict[str, Any]:
    """The table of a run."""
    command = [sys.executable, "-P", "-m", "refiner", "report", str(out), "--format", "table", "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    return {name: value for name, value in json.loads(done.stdout).items() if name != "files"}


def straight(root: Path, count: int, concurrency: int, latency: float) -> dict[str, Any]:
    """A run without kills, and its figures."""
    save_pictures(root / "images", count)
    server = FaultyServer(latency=latency, late=2 * TIMEOUT)
    began = time.monotonic()
    peak = finished(start(root / "images", root / "out", server, concurrency))
    seconds = time.monotonic() - began
    server.stop()
    table = table_of(root / "out")
    return {
        "images": count,
        "accounted": count - table["missing"],
        "answered": table["coverage"]["answered"],
        "unreadable": table["coverage"]["unreadable"],
        "failed": table["coverage"]["failed"],
        "requests": server.seen.total(),
        "faults": dict(sorted(server.spoiled.items())),
        "paid_twice": sum(times - 1 for times in server.paid.values()),
        "used": round(server.used / concurrency, 4),
        "images_per_second": round(count / seconds, 2),
        "peak_mib": round(peak, 1),
        "table": table,
    }


def killed(root: Path, wanted: dict[str, Any], kills: int, concurrency: int, latency: float) -> dict[str, Any]:
    """A run over the images of ``straight`` that is killed and resumed; whether it gives the same table."""
    server, chance = FaultyServer(latency=latency, late=2 * TIMEOUT), random.Random(SEED)
    records = root / "again/records.jsonl"
    for left in range(kills, 0, -1):
        process = start(root / "images", root / "again", server, concurrency, "--resume")
        size = records.stat().st_size if records.exists() else 0
        target = size + chance.uniform(0, 2) * (wanted_bytes(root) - size) / (left + 1)
        while process.poll() is None and (not records.exists() or records.stat().st_size <= target):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished(start(root / "images", root / "again", server, concurrency, "--resume"))
    server.stop()
    again = sum(times - 1 for times in server.paid.values())
    return {"kills": kills, "same_table": table_of(root / "again") == wanted, "asked_again": again}


def wanted_bytes(root: Path) -> int:
    """Size of the records of the whole run."""
    return (root / "out/records.jsonl").stat().st_size


def measure(count: int, kills: int, concurrency: int, latency: float) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        few = straight(root / "few", max(1, count // 10), concurrency, latency)
        report = killed(root / "few", few["table"], kills, concurrency, latency)
        many = straight(root / "many", count, concurrency, latency)
    peaks = {f"{run['images']} images": run.pop("peak_mib") for run in (few, many)}
    figures = many.pop("table")["figures"]
    return {"concurrency": concurrency, **many, "peak_mib": peaks, "killed": report, "figures": figures}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds until the server answers")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = measure(args.count, args.kills, args.concurrency, args.latency)
    if args.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
