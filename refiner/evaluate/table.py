"""From the records of a run to its table, in one pass over the records, in the order of the data set."""

from __future__ import annotations

import csv
import io
import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.coverage import COLUMNS, UNREADABLE, Coverage
from refiner.data.problems import Problem
from refiner.data.texts import Texts
from refiner.errors import InputError, RefinerError
from refiner.evaluate.columns import BLOCK, Column, Columns
from refiner.evaluate.figures import Figures, Task, Unscored, coverage_of
from refiner.evaluate.harness import PROBLEMS_FILE, RUN_FILE, Run
from refiner.evaluate.records import unwritten
from refiner.evaluate.tasks import build_task
from refiner.files import Json, atomic_write, dumps
from refiner.metrics.perturbations import Perturbation
from refiner.reading import reason_of

TABLE_FILE, TABLE_CSV, SAMPLES_CSV = "table.json", "table.csv", "samples.csv"


class Failure(NamedTuple):
    """A sample without an answer or without figures."""

    name: str
    kind: str
    detail: str


class Scored(NamedTuple):
    """The table of a run, and what its report draws."""

    table: Json
    columns: Columns
    """Columns of numbers, one for each scored sample."""
    indices: NDArray[np.int64]
    """Numbers of the scored samples."""
    names: Sequence[str]
    """Names of the scored samples."""
    failures: Sequence[Failure]
    """At most ``SHOWN``; the table counts all."""
    notes: Sequence[str] = ()
    """What could not be used of samples that have figures, a sentence each; at most ``SHOWN``."""


SHOWN = 100
"""Most failures and notes that the report and the command line list."""


class _Collected:
    """Rows as packed columns."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.coverage = {name: Column() for name in COLUMNS}
        """Of each sample, by columns."""
        self.indices = array("q")
        self.names = Texts()
        self.groups: dict[str, int] = {}
        """Name of each group -> its number."""
        self.group = array("l")
        """Number of the group of each sample."""

    def add(self, record: Json, row: Figures, coverage: Coverage) -> None:
        for name, count in coverage.row().items():
            self.coverage[name].append(count)
        for name, value in row.items():
            if name not in self.columns:
                self.columns[name] = Column(missing=len(self.indices))
            self.columns[name].append(np.nan if value is None else float(value))
        self.indices.append(record["index"])
        for name in self.columns.keys() - row.keys():
            self.columns[name].append(np.nan)
        self.names.append(record["name"])
        self.group.append(self.groups.setdefault(record["group"], len(self.groups)))

    def coverage_of(self, chosen: NDArray[np.bool_]) -> Coverage:
        """The coverage of the chosen samples, all of which have figures."""
        return Coverage(**{name: int(column.all()[chosen].sum()) for name, column in self.coverage.items()})


def score(run: Run) -> Scored:
    """Make the table of a run from its records, and write ``table.json``, ``table.csv`` and ``samples.csv``.

    Raises:
        InputError: a record cannot be read.
        OutputError: the folder cannot be written.
    """
    with _readable(f"{RUN_FILE} of {str(run.folder)!r}"):
        task = build_task(run.description["task"], run.description["system"], run.description["scoring"])
    collected, failures = _Collected(), list[Failure]()
    coverage = defaultdict[str | None, Coverage](Coverage)
    errors, misses, notes = Counter[str](), Counter[str](), Counter[str]()
    named: list[str] = []
    for record in run.records:
        row, failure = _outcome(task, record)
        with _readable(f"record of sample {record['index']}"):
            own = coverage_of(record)
        coverage[record.get("group")] += own
        if failure is not None:
            errors[failure.kind] += 1
            misses[failure.kind] += row is not None
            if len(failures) < SHOWN:
                failures.append(Failure(record["name"], *failure))
        else:
            for kind, note in record["answer"]["notes"]:
                notes[kind] += 1
                if len(named) < SHOWN:
                    named.append(note)
        if row is not None:
            collected.add(record, row, own)
    columns = Columns({name: column for name, column in collected.columns.items() if not column.empty})
    table = _table(run, task, columns, collected, (errors, +misses, notes), coverage)
    atomic_write(run.folder / TABLE_FILE, dumps(table) + "\n")
    atomic_write(run.folder / TABLE_CSV, csv_text(table_rows(table)))
    _write_samples(run.folder / SAMPLES_CSV, columns, collected)
    return Scored(table, columns, np.asarray(collected.indices), collected.names, failures, named)


def table_rows(table: Json) -> list[Json]:
    """The rows of ``table.csv``: all samples, each group, each category; each with the coverage of its figures."""
    every = {"scored": table["scored"], **table["coverage"]}
    rows = [{"scope": "all", "name": "all", **every, **table["figures"]}]
    for name, row in table["groups"].items():
        own = {key: value for key, value in row.items() if key not in ("scored", "coverage")}
        rows.append({"scope": "group", "name": name, "scored": row["scored"], **row["coverage"], **own})
    return rows + [{"scope": "category", "name": name, **every, **row} for name, row in table["categories"].items()]


def _outcome(task: Task, record: Json) -> tuple[Figures | None, Unscored | None]:
    """The numbers of a sample, and why it has none; an answer that could not be read may have both."""
    with _readable(f"record of sample {record['index']}"):
        _check_record(record)
        error = record["error"]
        if error is not None:
            return task.miss(record) if error["kind"] in UNREADABLE else None, Unscored(error["kind"], error["detail"])
        row = task.row(record)
        return (None, row) if isinstance(row, Unscored) else (row, None)


def _check_record(record: Json) -> None:
    """Check the fields that are not the task's own."""
    error = record["error"]
    texts = [record["name"], record.get("group", "")]
    if error is None or "truth" in record:
        texts.append(record["group"])
    if error is None:
        texts += [text for note in record["answer"]["notes"] for text in note]
    else:
        texts += [error["kind"], error["detail"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("name, group, error and notes must be texts")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Word what goes wrong with a file that this program did not write like this.

    Raises:
        InputError: a field is missing or of another kind.
    """
    try:
        yield
    except RefinerError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"The {what} cannot be read ({reason_of(error)}): run the evaluation again in another folder."
        ) from error


def _table(
    run: Run,
    task: Task,
    columns: Columns,
    collected: _Collected,
    counts: tuple[Counter[str], ...],
    coverage: Mapping[str | None, Coverage],
) -> Json:
    errors, misses, notes = counts
    groups = _groups(task, columns, collected, coverage)
    data, system = run.description["data"], run.description["system"]
    facts = {**system.get("refiner", {}), **system}
    signature = [task.signature]
    signature += [f"{name}={facts[name]}" for name in ("model", "detector", "judge") if facts.get(name)]
    signature += [f"polygons={data['polygons']}"] if "polygons" in data else []
    if "perturbation" in data:
        signature += [Perturbation.parse(data["perturbation"]).signature, f"seed={data['perturbation_seed']}"]
    scored = len(collected.names)
    problems = Counter(run.description["problems"]) + notes
    return {
        "task": run.description["task"],
        "data": data,
        "system": system,
        "signature": "|".join(signature),
        "samples": run.samples,
        "scored": scored,
        "missing": run.missing,
        "coverage": Coverage.total(coverage.values()).row(),
        "errors": dict(sorted(errors.items())),
        "misses": dict(sorted(misses.items())),
        "problems": dict(sorted(problems.items())),
        "figures": task.figures(columns) | task.across(groups) if scored else {},
        "groups": groups,
        "categories": task.categories(columns) if scored else {},
    }


def _groups(
    task: Task, columns: Columns, collected: _Collected, coverage: Mapping[str | None, Coverage]
) -> dict[str, Json]:
    """The figures of each group, with their coverage; empty if there is just one group."""
    groups: dict[str, Json] = {}
    ungrouped = np.asarray(collected.group) == collected.groups.get("", -1)
    for name, number in sorted(collected.groups.items()):
        if name:
            own = np.asarray(collected.group) == number
            chosen = task.compared(columns, own, ungrouped)
            covered = coverage[name] + collected.coverage_of(chosen & ~own)
            groups[name] = {"scored": int(chosen.sum()), "coverage": covered.row()}
            groups[name] |= task.figures(columns.rows_of(chosen))
    return groups if len(groups) > 1 else {}


def _write_samples(path: Path, columns: Columns, collected: _Collected) -> None:
    """A row for each scored sample, written one by one."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "name", "group", *COLUMNS, *columns])
            covered = Columns(collected.coverage)
            groups, block = list(collected.groups), np.zeros((BLOCK, 0))
            for at, index in enumerate(collected.indices):
                if at % BLOCK == 0:
                    known = [covered.block(at // BLOCK), *([columns.block(at // BLOCK)] if columns else [])]
                    block = np.concatenate(known, axis=1)
                numbers = block[at % BLOCK].tolist()
                cells = ("" if math.isnan(number) else repr(number).removesuffix(".0") for number in numbers)
                writer.writerow([index, collected.names[at], groups[collected.group[at]], *cells])
        part.replace(path)
    except OSError as error:
        raise unwritten(path, error) from error


def csv_text(rows: Sequence[Json], columns: Sequence[str] = ()) -> str:
    """A CSV file; missing values and None are empty cells, numbers are not rounded.

    Args:
        rows: name of a column -> cell.
        columns: those that come first, also if there are no rows.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def problem_lines(run: Run) -> list[str]:
    """The recorded problems of the data, a sentence each; at most ``SHOWN``."""
    path = run.folder / PROBLEMS_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [str(Problem(**json.loads(line))) for line in islice(lines, SHOWN)]
