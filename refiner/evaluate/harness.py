"""The harness: a data set and a system make one record a sample; records make a table.

A run's folder holds ``run.json`` (what the records depend on) and ``records.jsonl``, one line a sample, appended as the
samples are done and flushed batch by batch: whatever ends a run, the next one goes on after the last whole line. On
request they become ``records.parquet`` when all are there (see ``refiner.evaluate.records``). The
table is made from the records alone, in the order of the data set. So a run that was resumed, merged from shards or
scored again without the models gives the same table as one in a single stretch.

A sample whose picture cannot be read, or that a model fails on, has a record with its error; it is tried again when a
run is resumed. Anything else that goes wrong (a bug, a full disk, missing weights) ends the run.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from refiner.data.problems import Problem, count_problems
from refiner.data.samples import DataSet, Sample, digest
from refiner.errors import ConfigError, InputError, ModelError
from refiner.evaluate.records import Appending, Records, RecordsFormat, need_parquet, to_lines, to_parquet
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.records import environment

SCHEMA = 1
"""Version of records and ``run.json``."""
RUN_FILE, PROBLEMS_FILE = "run.json", "problems.jsonl"

Progress = Callable[[int, int], None]
"""Takes how many samples are done in this run, and how many it has to do."""


class System(Protocol):
    """What is evaluated: it answers samples with plain JSON, from which all figures follow."""

    batch_size: int
    """How many samples it is given at a time; it must not change the answers."""

    def identity(self) -> Json:
        """All that the answers depend on: models, revisions, settings."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """One answer for each sample.

        Raises:
            ModelError, InputError: it fails on one of the samples.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """A part of a data set: every ``count``-th sample from the ``number``-th on."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``, from ``1/n`` to ``n/n``.

        Raises:
            ConfigError: it is something else.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise ConfigError(f"Expected a shard i/n from 1/n to n/n, such as 2/4, got {text!r}.")

    def indices(self, samples: int) -> range:
        """Numbers of its samples among so many."""
        return range(self.number - 1, samples, self.count)

    def file(self, kind: RecordsFormat = "jsonl") -> str:
        """Name of its records."""
        return f"records.{kind}" if self.count == 1 else f"records-{self.number}-of-{self.count}.{kind}"


class Run(NamedTuple):
    """A folder of records, with what made them."""

    folder: Path
    description: Json
    """``run.json``."""
    records: Records

    @property
    def samples(self) -> int:
        """How many samples the data set has."""
        return int(self.description["data"]["samples"])

    @property
    def missing(self) -> int:
        """How many of them have no record."""
        return self.samples - len(self.records)


def describe(task: str, data: DataSet, specification: Json, system: System, scoring: Json) -> Json:
    """``run.json``: all that records and table depend on, and where they were made."""
    return {
        "schema": SCHEMA,
        "task": task,
        "data": {**specification, "samples": len(data.names), "digest": digest(data.names)},
        "system": system.identity(),
        "scoring": scoring,
        "problems": count_problems(data.problems),
        "environment": environment(),
    }


def collect(
    data: DataSet,
    system: System,
    description: Json,
    folder: str | Path,
    *,
    resume: bool = False,
    shard: Shard | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
    records: RecordsFormat = "jsonl",
) -> Run:
    """Run the samples that the folder has no record of, and append their records.

    Args:
        data: the samples.
        system: answers them.
        description: from ``describe``.
        folder: of the run; made where it is missing.
        resume: go on with a run that the folder holds. Without it such a folder is refused.
        shard: only these samples; None for all.
        engine: makes the records; None for ``work`` in this process.
        progress: is told how far it is.
        records: what the records become when all are there; until then they are JSON Lines. A run can be resumed
            with either.

    Returns:
        The run, with the records of this shard.

    Raises:
        ConfigError: the folder holds records of another run, or of this one and ``resume`` is not set.
        OutputError: the folder cannot be written.
        MissingExtraError: Parquet without pyarrow.
    """
    if records == "parquet":
        need_parquet()
    root, part = check_writable(folder), shard or Shard()
    _claim(root, description, part, resume=resume)
    atomic_write(root / PROBLEMS_FILE, "".join(json.dumps(each._asdict()) + "\n" for each in data.problems))
    file = root / part.file()
    file.touch()
    left = array("q", np.setdiff1d(part.indices(len(data.names)), Records(_files_of(root, part)).done()))
    finished = 0
    with Appending(file) as out:
        for rows in (engine or work)(data, system, left):
            out.write(rows)
            finished += len(rows)
            if progress is not None:
                progress(finished, len(left))
    if records == "parquet":
        to_parquet(_files_of(root, part), root / part.file("parquet"))
        file.unlink()
    return Run(root, description, Records(_files_of(root, part)))


def _files_of(root: Path, shard: Shard) -> list[Path]:
    return [path for kind in get_args(RecordsFormat) if (path := root / shard.file(kind)).exists()]


def _claim(root: Path, description: Json, shard: Shard, *, resume: bool) -> None:
    path = root / RUN_FILE
    if not path.exists():
        atomic_write(path, dumps(description) + "\n")
        return
    check_same(read_description(root), description, root)
    if _files_of(root, shard) and not resume:
        raise ConfigError(
            f"Expected a folder without records, got those of an earlier run in {str(root)!r}: "
            "pass --resume to go on with it, or name another folder."
        )


def check_same(first: Json, second: Json, place: Path) -> None:
    """Compare what made the records of two runs.

    Raises:
        ConfigError: they differ; the message names where.
    """
    for name in ("schema", "task", "data", "system"):
        old, new = (json.loads(json.dumps(each[name])) for each in (first, second))
        if old != new:
            raise ConfigError(
                f"Expected records of this {name}, got those of another in {str(place)!r} "
                f"({_difference(old, new)}): name another folder, or repeat the settings of that run."
            )


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return "; ".join(f"{name}: {old.get(name)!r:.80} there, {new.get(name)!r:.80} here" for name in names)
    return f"{old!r:.80} there, {new!r:.80} here"


def read_description(folder: str | Path) -> Json:
    """The ``run.json`` of a folder.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(folder) / RUN_FILE
    try:
        description: Json = json.loads(path.read_text(encoding="utf-8"))
        if description["schema"] != SCHEMA:
            raise ValueError(f"schema {description['schema']!r}, not {SCHEMA}")
        _ = description["task"], description["data"]["samples"], description["system"], description["scoring"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Expected the folder of a run in {str(folder)!r}, got one whose {RUN_FILE} fails with {error!r}: "
            "name the folder that --out wrote."
        ) from error
    return description


def open_run(folder: str | Path) -> Run:
    """A run from its folder, with the records of all shards there.

    Raises:
        InputError: there is no run.
    """
    root = Path(folder)
    return Run(root, read_description(root), Records(_record_files(root)))


def _record_files(root: Path) -> list[Path]:
    return [path for kind in get_args(RecordsFormat) for path in sorted(root.glob(f"records*.{kind}"))]


def merge(folders: Sequence[str | Path], out: str | Path, *, records: RecordsFormat = "jsonl") -> Run:
    """Join the records of shards, of one folder or several, into one run.

    Args:
        folders: that hold them, in any format.
        out: folder of the joined run; may be one of them.
        records: format of the joined records.

    Raises:
        InputError: a folder holds no run.
        ConfigError: the folders hold different runs, or ``out`` holds one already that is none of them.
        OutputError: ``out`` cannot be written.
    """
    roots = [Path(folder) for folder in folders]
    descriptions = [read_description(root) for root in roots]
    for root, description in zip(roots, descriptions, strict=True):
        check_same(descriptions[0], description, root)
    target = check_writable(out)
    if (target / RUN_FILE).exists():
        check_same(read_description(target), descriptions[0], target)
    files = [file for root in roots for file in _record_files(root)]
    joined = target / Shard().file(records)
    (to_parquet if records == "parquet" else to_lines)(files, joined)
    for file in _record_files(target):
        if file != joined:
            file.unlink()
    for name in (RUN_FILE, PROBLEMS_FILE):
        if roots[0].resolve() != target.resolve() and (roots[0] / name).is_file():
            atomic_write(target / name, (roots[0] / name).read_bytes())
    return open_run(target)


Engine = Callable[[DataSet, System, Sequence[int]], Iterator[list[Json]]]
"""Makes the records of samples, by their numbers, in batches and in any order; each as ``work`` makes it."""

_Loaded = tuple[int, str, Sample | InputError]
"""Number and name of a sample, and what came of reading it."""


def work(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
    """Make the records of samples, batch by batch; while the system works on one batch the next is read."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for start in range(0, len(indices), system.batch_size):
            following = pool.submit(_read, data, indices[start : start + system.batch_size])
            if coming is not None:
                yield _records(coming.result(), system)
            coming = following
        if coming is not None:
            yield _records(coming.result(), system)


def _read(data: DataSet, indices: Sequence[int]) -> list[_Loaded]:
    return [(index, data.names[index], _load(data, index)) for index in indices]


def _load(data: DataSet, index: int) -> Sample | InputError:
    try:
        return data.load(index)
    except InputError as error:
        return error


def _records(batch: Sequence[_Loaded], system: System) -> list[Json]:
    """A record for each sample of a batch."""
    began = time.perf_counter()
    samples = [sample for _, _, sample in batch if isinstance(sample, Sample)]
    answers = iter(answer(system, samples))
    rows = []
    for index, name, sample in batch:
        outcome = next(answers) if isinstance(sample, Sample) else sample
        failure = outcome if isinstance(outcome, Exception) else None
        row: Json = {"index": index, "name": name, "error": failure and _failure(failure)}
        if isinstance(sample, Sample):
            row |= {"group": sample.group, "prompt": sample.prompt, "truth": sample.truth_record()}
        rows.append(row | {"answer": None if failure else outcome})
    seconds = (time.perf_counter() - began) / len(batch)
    return [row | {"seconds": round(seconds, 4)} for row in rows]


def answer(system: System, samples: Sequence[Sample]) -> list[Json | ModelError | InputError]:
    """What the system says of each sample; where it fails on a batch, each is tried alone."""
    if not samples:
        return []
    try:
        return list(system(samples))
    except (ModelError, InputError) as error:
        if len(samples) == 1:
            return [error]
    return [outcome for sample in samples for outcome in answer(system, [sample])]


def _failure(error: Exception) -> Json:
    return {"kind": type(error).__name__, "detail": str(error)}


def read_problems(folder: str | Path) -> list[Problem]:
    """What was wrong with the data set of a run, one by one; empty where that is not on record."""
    path = Path(folder) / PROBLEMS_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [Problem(**json.loads(line)) for line in lines]
