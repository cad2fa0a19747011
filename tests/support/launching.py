"""Train in several processes, as ``accelerate launch`` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parent.parent


def launch(
    module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *, processes: int = 2
) -> None:
    """Run ``train`` of a module in several processes on the CPU, over the loopback; an existing run is resumed.

    Args:
        module: runs the ``refiner`` command, such as ``refiner``.
        arguments: of ``refiner train``.
        folder: folder of the run.
        environment: variables by which a launcher chooses how the processes share the work.
        processes: how many.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "LOCAL_WORLD_SIZE": str(processes),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", module, "train", *arguments, "--device", "cpu", "--out", str(folder)]
    command += ["--resume"] if folder.exists() else []
    started = [
        subprocess.Popen(
            command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env={**os.environ, **common, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)
