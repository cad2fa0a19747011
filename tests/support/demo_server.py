"""A demo in a separate process, as ``refiner demo`` serves it: a tiny random pipeline, and detectors from a package.

The detectors find the reddest patch of every image. They describe it with a text that would do harm if it were used as
markup or code. A test can limit the number of images that they analyse (``Served.allow``), to decide when a job
continues.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOSTILE = (
    "<img src=x onerror=\"window.harmed='markup'\">${window.harmed='template'}{{harmed}} **bold** [x](javascript:1)"
)
SECRET = "sk-testtesttesttesttest"

DETECTORS = (
    """
import json, time
from pathlib import Path
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

HOSTILE = """
    + repr(HOSTILE)
    + """

class Patches(ScriptedDetector):
    def __init__(self, folder):
        super().__init__(self.look, name=f"{folder}/patches 1")
        self.folder, self.count = folder, 0

    def look(self, image):
        self.count += 1
        (self.folder / "seen").write_text(str(self.count))
        while self.count > int((self.folder / "allow").read_text() or 0):
            time.sleep(0.02)
        pixels = np.asarray(image).astype(float)
        height, width = pixels.shape[:2]
        if (pixels == 0).all():
            return UnreadableOutputError(f"Expected flaws from {self.folder}/weights.bin with """
    + SECRET
    + """, got babble.", raw="")
        if (pixels == 1).all():
            raise RuntimeError(f"a bug in {self.folder} with """
    + SECRET
    + """")
        side = max(8, min(height, width) // 3)
        red = pixels[..., 0] - pixels[..., 1:].mean(axis=2)
        at = max(
            ((y, x) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)),
            key=lambda corner: red[corner[0]:corner[0] + side, corner[1]:corner[1] + side].mean(),
        )
        mask = np.zeros((height, width), dtype=bool)
        mask[at[0]:at[0] + side, at[1]:at[1] + side] = True
        region = Region(
            mask=mask, box=(at[1], at[0], at[1] + side, at[0] + side), name="the patch", location="somewhere",
            explanation="a patch too red " + HOSTILE, reasoning="nothing is that red", category=Category.COLOR,
            severity=float(np.clip(0.2 + pixels[mask].mean() / 400, 0, 1)), score=0.9,
        )
        heat = np.clip((red - red.min()) / (np.ptp(red) + 1e-6), 0, 1).astype(np.float32)
        return Analysis(size=Size(height, width), detector=self.name, regions=(region,), fake_probability=0.75,
                        heatmap=heat if (self.folder / "warm").exists() else None, raw=HOSTILE, tags=(HOSTILE,))

def build(folder, device, dtype):
    return Patches(Path(folder))
"""
)


class Served:
    """A running demo."""

    def __init__(self, address: str, process: subprocess.Popen[str], homes: list[Path], log: Path) -> None:
        self.address, self.process, self.homes, self.log = address, process, homes, log

    def allow(self, pictures: int) -> None:
        """Let the detectors analyse this number of images, counted from the server's start; further ones wait."""
        for home in self.homes:
            part = home / "allow.part"
            part.write_text(str(pictures))
            part.replace(home / "allow")

    def seen(self) -> int:
        """Number of images that the first detector got."""
        told = self.homes[0] / "seen"
        return int(told.read_text() or 0) if told.exists() else 0

    def peak_memory(self) -> int:
        """Peak memory of the server in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def served(model: str, write_plugin: object, folder: Path, *more: str) -> Iterator[Served]:
    """Serve until the block ends. ``more`` are further arguments of ``refiner demo``."""
    home, other = folder / "patches", folder / "warmer"
    first = write_plugin(home, "patches_for_demo", DETECTORS)
    other.mkdir()
    (other / "warm").touch()
    for place in (home, other):
        (place / "allow").write_text(str(10**9))
    chosen = ["--model", model, "--detector", first, "--detector", f"spots:{other}", *more]
    with opened(chosen, folder, [home, other]) as demo:
        yield demo


@contextmanager
def opened(arguments: list[str], folder: Path, homes: list[Path], name: str = "demo") -> Iterator[Served]:
    """Serve ``refiner NAME ARGUMENTS`` on loopback until the block ends. All its files are in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(homes[0])] if homes else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "OPENAI_API_KEY": SECRET,
    }
    command = [sys.executable, "-P", "-m", "refiner", name, *arguments, "--port", str(port)]
    log = folder / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"{name}: http"), line + log.read_text()
        yield Served(f"http://127.0.0.1:{port}/", process, homes, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
