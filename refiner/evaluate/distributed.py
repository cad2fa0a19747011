"""The harness over Ray Data: each worker has a copy of the system, on this machine or on a cluster.

    with ray_engine(workers=4) as engine:
        system = engine.deferred(build)
        collect(data, system, describe(task, data, specification, system, scoring), folder, engine=engine)

The samples are cut into blocks of a few batches. Workers make their records as ``refiner.evaluate.harness.work`` does,
and the driving process appends them to the file of the run. So the table is that of the local engine (to the last bit
with the same threads and devices: Ray gives a worker one thread unless ``OMP_NUM_THREADS`` is set), and records on the
disk are not made again if the driver dies. A worker that dies is restarted and its block is done again.

``RAY_ADDRESS`` names a cluster, as usual with Ray: all its machines must have refiner installed and the same paths
(data, models, the folder of the run). Without it, a cluster of only this machine is started and ended with the run; it
listens on the loopback interface. No usage statistics are sent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner import errors
from refiner.data.samples import DataSet, Sample
from refiner.errors import ConfigError, InputError, MissingExtraError, ModelError, UserError
from refiner.evaluate.harness import Answer, System, work
from refiner.files import Json
from refiner.ledger import Ledger, ledgers_of

_AHEAD, _BLOCKS, _SHARES = 8, 10_000, 8
"""Most batches per block, most blocks (unless the blocks would be too large), and least blocks per worker."""
_STORE = 256 * 2**20
"""Bytes of shared memory on this machine, for objects in transit."""


class Deferred:
    """A system that is described first, and loaded by the worker in which it first answers.

    Args:
        build: loads the system; must be picklable, and give the same system on every machine.
        identity: identity that the loaded system must have.
        batch_size: of the loaded system.
    """

    def __init__(self, build: Callable[[], System], *, identity: Json, batch_size: int) -> None:
        self.build, self.batch_size, self._identity = build, batch_size, identity
        self._system: System | None = None

    def identity(self) -> Json:
        """Everything that the answers depend on."""
        return self._identity

    def load(self) -> System:
        """The system; loaded once.

        Raises:
            ConfigError: its identity is not the described one.
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

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of its chat models, by model."""
        return ledgers_of([self.load()])

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """One answer for each sample."""
        return self.load()(samples)


@contextmanager
def ray_engine(workers: int | None = None) -> Iterator[RayEngine]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine, while the context lasts.

    If this process is already connected to a cluster, that one is used and stays connected. Output on stdout goes to
    stderr meanwhile, because Ray prints messages about dead workers on stdout.

    Args:
        workers: None for one per GPU, or one for every two cores if there is no GPU.

    Raises:
        MissingExtraError: Ray Data is not installed.
        ConfigError: fewer than 1 worker, more workers than GPUs on this machine, or no such cluster.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"Expected at least 1 worker, got {workers}: choose a larger number.")
    ray = _import_ray()
    connected = ray.is_initialized()
    try:
        if not connected:
            _connect(ray, workers)
        # The run shows its own progress.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if gpus and not connected and "RAY_ADDRESS" not in os.environ and (workers or 1) > gpus:
            raise ConfigError(f"Expected at most {gpus} workers, one per GPU, got {workers}: choose fewer.")
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
        # Ray reads this when it is imported; without it, Ray uses the external address of the machine.
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
    except Exception as error:  # Ray raises plain exceptions here
        raise ConfigError(f"No Ray cluster answers at {address!r} ({error!s:.200}): check RAY_ADDRESS.") from error


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Makes records in workers; an ``Engine`` of ``refiner.evaluate.harness.collect``. Made by ``ray_engine``."""

    workers: int
    gpus: int
    """Per worker."""

    def deferred(self, build: Callable[[], System]) -> Deferred:
        """Describe a system in a worker, so that this process need not load it.

        Raises:
            UserError: it cannot be loaded.
            ModelError: the worker dies.
        """
        import ray

        describe = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=1)(_outcome)
        with _alive(ray):
            return Deferred(build, **_value(ray.get(describe.remote(_description, build, os.getcwd()))))

    def __call__(self, data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        """Make the records of samples, block by block, in the order in which blocks are finished.

        Raises:
            UserError: a worker failed with one.
            ModelError: the workers die before they begin.
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
            f"The workers died repeatedly ({type(error).__name__}): give them more memory, then continue with --resume."
        ) from error


def block_size(samples: int, batch_size: int, workers: int) -> int:
    """Samples per block: whole batches.

    Several, so that the next batch is read while the current one is processed. Not too many, because a worker that
    dies loses its block, and at the end of a run all workers wait for the last block.
    """
    batches = -(-samples // batch_size)
    return batch_size * max(1, min(_AHEAD, batches // (_SHARES * workers)), -(-batches // _BLOCKS))


class _Job(NamedTuple):
    """What all workers of a run need."""

    data: DataSet
    system: System
    indices: NDArray[np.int64]
    size: int
    """Samples per block."""
    place: str
    """Folder that relative paths start from."""


class _Worker:
    """An actor of Ray Data: numbers of blocks in, records out."""

    def __init__(self, job: Any) -> None:
        import ray

        self.job: _Job = ray.get(job)

    def __call__(self, rows: dict[str, NDArray[np.int64]]) -> dict[str, list[str]]:
        """The records of each block, as JSON."""
        return {"outcome": [_outcome(self._records, int(number)) for number in rows["id"]]}

    def _records(self, number: int) -> list[Json]:
        data, system, indices, size, place = self.job
        _enter(place)
        if isinstance(system, Deferred):
            system.load()
        chosen = indices[number * size : (number + 1) * size].tolist()
        return [record for records in work(data, system, chosen) for record in records]


def _description(build: Callable[[], System], place: str) -> Json:
    _enter(place)
    system = build()
    return {"identity": system.identity(), "batch_size": system.batch_size}


def _enter(place: str) -> None:
    if Path.cwd() == Path(place):
        return
    try:
        os.chdir(place)
    except OSError as error:
        raise InputError(
            f"A machine of the cluster cannot open the folder {place!r} ({error.strerror}): share it with all machines."
        ) from error


def _outcome(make: Callable[..., Any], *arguments: Any) -> str:
    """The value or the ``UserError`` of a call, as JSON, because Ray does not keep the class of an error."""
    try:
        return json.dumps({"value": make(*arguments)})
    except UserError as error:
        return json.dumps({"error": {"kind": type(error).__name__, "text": str(error)}})


def _value(outcome: str) -> Any:
    found = json.loads(outcome)
    if "error" in found:
        kind = getattr(errors, found["error"]["kind"], UserError)
        raise kind.__new__(kind, found["error"]["text"])
    return found["value"]
