"""The harness over Ray Data: each worker holds a copy of the system, on this machine or on a cluster.

    with ray_engine(workers=4) as engine:
        system = engine.deferred(build)
        collect(data, system, describe(task, data, specification, system, scoring), folder, engine=engine)

The samples are cut into blocks of a few batches. A worker makes their records just as ``refiner.evaluate.harness.work``
does in one process; they stream back, and are appended to the run's file by the process that drives it. So the table is
that of the local engine (to the last bit where threads and devices are the same: Ray gives a worker one thread unless
``OMP_NUM_THREADS`` is set), and what is on the disk when the driver dies is not done again. A worker that dies is
started anew and its block is done again, as often as that takes.

``RAY_ADDRESS`` names a cluster, as everywhere in Ray: refiner is installed on all its machines, and paths (data,
models, the run's folder) mean the same on all of them. Without it a cluster of this machine alone is started, which
listens on the loopback interface only, and ended with the run. No usage statistics are sent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner import errors
from refiner.data.samples import DataSet, Sample
from refiner.errors import ConfigError, InputError, MissingExtraError, ModelError, UserError
from refiner.evaluate.harness import System, work
from refiner.files import Json

_AHEAD, _BLOCKS, _SHARES = 8, 10_000, 8
"""At most so many batches a block, at most so many blocks where those suffice, and at least so many a worker."""
_STORE = 256 * 2**20
"""Bytes of shared memory for what is on its way, on this machine."""


class Deferred:
    """A system that is described before it is loaded, and loaded where it first answers.

    Args:
        build: loads it; must be picklable, and mean the same on every machine.
        identity: what the loaded system must say of itself.
        batch_size: of the loaded system.
    """

    def __init__(self, build: Callable[[], System], *, identity: Json, batch_size: int) -> None:
        self.build, self.batch_size, self._identity = build, batch_size, identity
        self._system: System | None = None

    def identity(self) -> Json:
        """All that the answers depend on."""
        return self._identity

    def load(self) -> System:
        """The system; loaded once.

        Raises:
            ConfigError: it is not the one that was described.
        """
        if self._system is None:
            system = self.build()
            found = json.loads(json.dumps(system.identity()))
            if found != json.loads(json.dumps(self._identity)):
                raise ConfigError(
                    f"Expected the same models in every worker, got {found} where the run has {self._identity}: "
                    "give all machines the same files."
                )
            self._system = system
        return self._system

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """One answer for each sample."""
        return self.load()(samples)


@contextmanager
def ray_engine(workers: int | None = None) -> Iterator[RayEngine]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine, for as long as the context lasts.

    Where this process is connected to a cluster already, that one is used and left as it is. What is printed meanwhile
    goes to stderr: that is where Ray's word of workers that died belongs, which it prints on stdout.

    Args:
        workers: None for one a GPU, or one for every two cores where there is no GPU.

    Raises:
        MissingExtraError: Ray Data is not installed.
        ConfigError: no worker, more workers than GPUs on this machine, or no such cluster.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"Expected at least 1 worker, got {workers}: name a larger number.")
    ray = _import_ray()
    connected = ray.is_initialized()
    try:
        if not connected:
            _connect(ray, workers)
        _silence(ray)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if gpus and not connected and "RAY_ADDRESS" not in os.environ and (workers or 1) > gpus:
            raise ConfigError(f"Expected at most {gpus} workers, one for each GPU, got {workers}: name fewer.")
        count = workers or gpus or max(1, int(resources.get("CPU", 0)) // 2)
        with redirect_stdout(sys.stderr):
            yield RayEngine(workers=count, gpus=min(gpus, 1))
    finally:
        if not connected:
            ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if "RAY_ADDRESS" not in os.environ:
        # Read when Ray is imported: without it the machine's outward address is taken, whatever init is told.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("The engine ray", "ray[data]", "ray") from error
    return ray


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "local")
    options: Json = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _STORE, "_node_ip_address": "127.0.0.1"}
        options |= {"num_cpus": (workers or os.cpu_count() or 1) + 1}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises them bare
        raise ConfigError(f"Expected a Ray cluster at {address!r}, got {error!s:.200}: see RAY_ADDRESS.") from error


def _silence(ray: Any) -> None:
    """Progress is told by the run itself."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Makes records in workers; an ``Engine`` of ``refiner.evaluate.harness.collect``. Comes from ``ray_engine``."""

    workers: int
    gpus: int
    """A worker."""

    def deferred(self, build: Callable[[], System]) -> Deferred:
        """Ask a worker what a system is, so that this process need not load it.

        Raises:
            UserError: it cannot be loaded.
            ModelError: it takes the worker down.
        """
        import ray

        ask = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=1)(_introduce)
        with _alive(ray):
            return Deferred(build, **_value(ray.get(ask.remote(build, os.getcwd()))))

    def __call__(self, data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        """Make the records of samples, block by block, in the order in which they come about.

        Raises:
            UserError: a worker cannot go on.
            ModelError: no worker lives long enough to begin.
        """
        import ray

        if not len(indices):
            return
        size = block_size(len(indices), system.batch_size, self.workers)
        blocks = -(-len(indices) // size)
        job = ray.put(_Job(data, system, np.asarray(indices, dtype=np.int64), size, os.getcwd()))
        outcomes = ray.data.range(blocks, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(job,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, blocks), max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=self.gpus,
        )
        with _alive(ray):
            for rows in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for outcome in rows.column("outcome").to_pylist():
                    yield _value(outcome)


@contextmanager
def _alive(ray: Any) -> Iterator[None]:
    try:
        yield
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise ModelError(
            f"Expected workers that live, got {type(error).__name__} time and again: see whether their memory "
            "suffices, then go on with --resume."
        ) from error


def block_size(samples: int, batch_size: int, workers: int) -> int:
    """Samples a block: whole batches; several, so that the next is read while one is worked on, yet not too many.

    What a worker had done of a block is lost when it dies, and at the end of a run all but one wait for the last.
    """
    batches = -(-samples // batch_size)
    return batch_size * max(1, min(_AHEAD, batches // (_SHARES * workers)), -(-batches // _BLOCKS))


class _Job(NamedTuple):
    """What all workers of a run need."""

    data: DataSet
    system: System
    indices: NDArray[np.int64]
    size: int
    """Samples a block."""
    place: str
    """The folder that relative paths start from."""


class _Worker:
    """An actor of Ray Data: numbers of blocks in, records out."""

    def __init__(self, job: Any) -> None:
        import ray

        self.job: _Job = ray.get(job)

    def __call__(self, rows: dict[str, NDArray[np.int64]]) -> dict[str, list[str]]:
        """The records of each block, as JSON."""
        return {"outcome": [_outcome(partial(self._records, int(number))) for number in rows["id"]]}

    def _records(self, number: int) -> list[Json]:
        data, system, indices, size, place = self.job
        _enter(place)
        if isinstance(system, Deferred):
            system.load()
        chosen = indices[number * size : (number + 1) * size].tolist()
        return [record for records in work(data, system, chosen) for record in records]


def _introduce(build: Callable[[], System], place: str) -> str:
    """Identity and batch size of a system, as JSON."""

    def introduction() -> Json:
        _enter(place)
        system = build()
        return {"identity": system.identity(), "batch_size": system.batch_size}

    return _outcome(introduction)


def _enter(place: str) -> None:
    if Path.cwd() == Path(place):
        return
    try:
        os.chdir(place)
    except OSError as error:
        raise InputError(
            f"Expected the folder {place!r} on every machine of the cluster, got {error.strerror}: share it."
        ) from error


def _outcome(make: Callable[[], Any]) -> str:
    """A value, or an error that the user can mend, as JSON: errors lose their class on the way through Ray."""
    try:
        return json.dumps({"value": make()})
    except UserError as error:
        return json.dumps({"error": {"kind": type(error).__name__, "text": str(error)}})


def _value(outcome: str) -> Any:
    said = json.loads(outcome)
    if "error" in said:
        kind = getattr(errors, said["error"]["kind"], UserError)
        raise kind.__new__(kind, said["error"]["text"])
    return said["value"]
