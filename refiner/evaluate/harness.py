"""The harness: a data set and a system make one record for each sample, and the records make a table.

The folder of a run holds ``run.json`` (what the records depend on) and ``records.jsonl``, one line for each sample.
Lines are appended and flushed batch by batch, so that an interrupted run is resumed after its last whole line. On
request they become ``records.parquet`` at the end (see ``refiner.evaluate.records``). The table is made only from the
records, in the order of the data set: a run that was resumed, merged from shards or scored again without the models
gives the same table as an uninterrupted one.

If the image of a sample cannot be read, or a model fails on it, its record holds the error; the sample is tried again
when the run is resumed. Anything else that goes wrong (a bug, a full disk, missing weights) ends the run.
"""

from __future__ import annotations

import functools
import json
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample, digest, polygon_rule
from refiner.errors import ConfigError, InputError, ModelError
from refiner.evaluate.records import Appending, Records, RecordsFormat, need_parquet, to_lines, to_parquet
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.ledger import Ledger, added, bill, ledgers_from, ledgers_of, since
from refiner.reading import reason_of
from refiner.records import environment

SCHEMA = 1
"""Version of records and ``run.json``."""
RUN_FILE, PROBLEMS_FILE = "run.json", "problems.jsonl"
SPENT = "spent"
"""Key of the costs of a batch in its first row, on the way from the system to the file of costs."""

Progress = Callable[[int, int], None]
"""Takes the number of samples that this run has done, and the number that it has to do."""


Answer = Json | ModelError | InputError
"""What a system says about a sample, or the error that came instead."""


class System(Protocol):
    """What is evaluated. It answers samples with plain JSON, from which all figures follow."""

    batch_size: int
    """Samples per call; must not change the answers."""

    def identity(self) -> Json:
        """Everything that the answers depend on: models, revisions, settings."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """One answer for each sample.

        Raises:
            ModelError, InputError: it fails on one of the samples. Then it gets them one by one.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """A part of a data set: every ``count``-th sample, starting at the ``number``-th."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``, from ``1/n`` to ``n/n``.

        Raises:
            ConfigError: ``text`` is not of this form.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise ConfigError(f"Expected a shard i/n from 1/n to n/n, got {text!r}: write it as 2/4.")

    def indices(self, samples: int) -> range:
        """Numbers of its samples in a data set of ``samples``."""
        return range(self.number - 1, samples, self.count)

    def file(self, kind: RecordsFormat = "jsonl") -> str:
        """Name of its file of records."""
        return f"records.{kind}" if self.count == 1 else f"records-{self.number}-of-{self.count}.{kind}"

    @property
    def ledger(self) -> str:
        """Name of its file of costs."""
        return self.file().replace("records", "ledger")


class Run(NamedTuple):
    """A folder of records, with the description of what made them."""

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

    def ledgers(self) -> dict[str, Ledger]:
        """What its chat models cost, by model, over all starts of the run.

        Raises:
            InputError: a line of the file of costs is something else.
        """
        return _ledgers(self.folder)


def _ledgers(folder: Path) -> dict[str, Ledger]:
    lines = [line for file in sorted(folder.glob("ledger*.jsonl")) for line in file.read_bytes().splitlines()]
    total: dict[str, Ledger] = {}
    for line in lines:
        with suppress(ValueError, RecursionError):  # a line that a killed run did not finish
            total = added(total, ledgers_from(json.loads(line)))
    return total


def describe(task: str, data: DataSet, specification: Json, system: System, scoring: Json) -> Json:
    """``run.json``: everything that records and table depend on, and the environment they were made in."""
    drawn = {"polygons": rule} if (rule := polygon_rule(data)) else {}
    return {
        "schema": SCHEMA,
        "task": task,
        "data": {**specification, **drawn, "samples": len(data.names), "digest": digest(data.names)},
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
    """Run the samples that have no record in the folder yet, and append their records.

    Args:
        data: the samples.
        system: answers the samples.
        description: from ``describe``.
        folder: of the run; created if it is missing.
        resume: continue the run in the folder. Without it such a folder is refused.
        shard: only these samples; None for all.
        engine: makes the records; None for ``work`` in this process.
        progress: called after each batch.
        records: final format of the records; until the end they are JSON Lines. A run can be resumed in either format.

    Returns:
        The run, with the records of this shard.

    Raises:
        ConfigError: the folder holds records of another run, or of this one and ``resume`` is not set.
        OutputError: the folder cannot be written, or another process writes the same records.
        MissingExtraError: Parquet without pyarrow.
    """
    if records == "parquet":
        need_parquet()
    root, part = check_writable(folder), shard or Shard()
    _claim(root, description, part, resume=resume)
    atomic_write(root / PROBLEMS_FILE, "".join(json.dumps(each._asdict()) + "\n" for each in data.problems))
    file = root / part.file()
    finished = 0
    with Appending(file) as out:
        left = array("q", np.setdiff1d(part.indices(len(data.names)), Records(_record_files(root, part)).done()))
        for rows in (engine or work)(data, system, left):
            if spent := [row.pop(SPENT) for row in rows if SPENT in row]:
                with Appending(root / part.ledger) as costs:
                    costs.write(spent)
            out.write(rows)
            finished += len(rows)
            if progress is not None:
                progress(finished, len(left))
    if records == "parquet":
        to_parquet(_record_files(root, part), root / part.file("parquet"))
        file.unlink()
    return Run(root, description, Records(_record_files(root, part)))


def _record_files(root: Path, shard: Shard | None = None) -> list[Path]:
    """Files of records in a folder; those of all shards by default."""
    names = [shard.file(kind) if shard else f"records*.{kind}" for kind in get_args(RecordsFormat)]
    return [path for name in names for path in sorted(root.glob(name))]


def _claim(root: Path, description: Json, shard: Shard, *, resume: bool) -> None:
    path = root / RUN_FILE
    if not path.exists():
        if _record_files(root, shard):
            raise ConfigError(
                f"{str(root)!r} holds records without a {RUN_FILE}, of another version: name another folder."
            )
        atomic_write(path, dumps(description) + "\n")
        return
    check_same(read_description(root), description, root)
    if _record_files(root, shard) and not resume:
        raise ConfigError(
            f"{str(root)!r} holds the records of an earlier run: pass --resume to continue it, or name another folder."
        )


def check_same(first: Json, second: Json, place: Path) -> None:
    """Check that two descriptions are of the same run.

    Raises:
        ConfigError: they differ; the message names the difference.
    """
    for name in ("schema", "task", "data", "system"):
        old, new = (json.loads(json.dumps(each[name])) for each in (first, second))
        if old != new:
            raise ConfigError(
                f"Expected records of this {name}, got those of another in {str(place)!r} "
                f"({_difference(old, new)}): name another folder, or use the settings of that run."
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
            raise ValueError(f"schema {description['schema']!r:.40}, not {SCHEMA}")
        if not all(isinstance(description[name], dict) for name in ("data", "system", "scoring", "problems")):
            raise ValueError("data, system, scoring and problems must be objects")
        if not isinstance(description["task"], str) or not isinstance(description["data"]["samples"], int):
            raise ValueError("the task must be a text, and the number of samples a whole number")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{str(folder)!r} is not the folder of a run, because its {RUN_FILE} cannot be read ({reason_of(error)}): "
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


def merge(folders: Sequence[str | Path], out: str | Path, *, records: RecordsFormat = "jsonl") -> Run:
    """Join the records of shards, of one folder or several, into one run.

    Args:
        folders: of the shards, in any format.
        out: folder of the joined run; may be one of ``folders``.
        records: format of the joined records.

    Raises:
        InputError: a folder holds no run.
        ConfigError: the folders hold different runs, or ``out`` already holds a different one.
        OutputError: ``out`` cannot be written.
    """
    roots = [Path(folder) for folder in folders]
    descriptions = [read_description(root) for root in roots]
    for root, description in zip(roots, descriptions, strict=True):
        check_same(descriptions[0], description, root)
    target = check_writable(out)
    if (target / RUN_FILE).exists():
        check_same(read_description(target), descriptions[0], target)
    costs = functools.reduce(added, map(_ledgers, roots))
    files = [file for root in roots for file in _record_files(root)]
    joined = target / Shard().file(records)
    (to_parquet if records == "parquet" else to_lines)(files, joined)
    for file in (*_record_files(target), *target.glob("ledger*.jsonl")):
        if file != joined:
            file.unlink()
    if costs:
        atomic_write(target / Shard().ledger, json.dumps(bill(costs)) + "\n")
    for name in (RUN_FILE, PROBLEMS_FILE):
        if roots[0].resolve() != target.resolve() and (roots[0] / name).is_file():
            atomic_write(target / name, (roots[0] / name).read_bytes())
    return open_run(target)


Engine = Callable[[DataSet, System, Sequence[int]], Iterator[list[Json]]]
"""Makes the records of samples, by their numbers, in batches and in any order; each is equal to that of ``work``."""

Loaded = tuple[int, Sample | InputError]
"""Number of a sample, and the sample or the error of reading it."""


def work(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
    """Make the records of samples, batch by batch; the next batch is read while the system works on the current one."""
    costs, coming = Costs(system), None
    with ThreadPoolExecutor(1) as pool:
        for start in range(0, len(indices), system.batch_size):
            following = pool.submit(read_samples, data, indices[start : start + system.batch_size])
            if coming is not None:
                yield costs.added(make_records(data, coming.result(), system))
            coming = following
        if coming is not None:
            yield costs.added(make_records(data, coming.result(), system))


def read_samples(data: DataSet, indices: Sequence[int]) -> list[Loaded]:
    """Read samples by their numbers; one that cannot be read gives its error."""
    loaded: list[Loaded] = []
    for index in indices:
        try:
            loaded.append((index, data.load(index)))
        except InputError as error:
            loaded.append((index, error))
    return loaded


def make_records(data: DataSet, batch: Sequence[Loaded], system: System) -> list[Json]:
    """The record of each sample of a batch."""
    began = time.perf_counter()
    answers = iter(answer(system, [sample for _, sample in batch if isinstance(sample, Sample)]))
    rows = []
    for index, sample in batch:
        outcome = next(answers) if isinstance(sample, Sample) else sample
        failed = isinstance(outcome, Exception)
        error = {"kind": type(outcome).__name__, "detail": str(outcome)} if failed else None
        row: Json = {"index": index, "name": data.names[index], "error": error}
        if isinstance(sample, Sample):
            row |= {"group": sample.group, "prompt": sample.prompt, "truth": sample.truth_record()}
        rows.append(row | {"answer": None if failed else outcome})
    seconds = (time.perf_counter() - began) / len(batch)
    return [row | {"seconds": round(seconds, 4)} for row in rows]


class Costs:
    """What the chat models of a system cost, from batch to batch of records."""

    def __init__(self, system: System) -> None:
        self._system, self._before = system, ledgers_of([system])

    def added(self, rows: list[Json]) -> list[Json]:
        """The rows; the first one has what was spent since the last call, on its way to the file of costs."""
        now = ledgers_of([self._system])
        if spent := since(self._before, now):
            rows[0][SPENT] = bill(spent)
        self._before = now
        return rows


def answer(system: System, samples: Sequence[Sample]) -> list[Answer]:
    """The answer or the error of each sample; if the system fails on a batch, it gets the samples one by one."""
    if not samples:
        return []
    try:
        return list(system(samples))
    except (ModelError, InputError) as error:
        if len(samples) == 1:
            return [error]
    return [outcome for sample in samples for outcome in answer(system, [sample])]
