"""Tables and reports that ``refiner evaluate`` writes and shows, made from the records of runs."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from refiner.cli.endpoint import tell_costs
from refiner.cli.options import DONE, FAILED
from refiner.cli.view import Terminal, plain_grid
from refiner.coverage import Coverage
from refiner.errors import UserError
from refiner.files import Json
from refiner.ledger import added

if TYPE_CHECKING:
    from refiner.data.samples import DataSet
    from refiner.evaluate.harness import Run
    from refiner.evaluate.table import Scored
    from refiner.reports.papers import PaperTable


def finish(run: Run, data: DataSet | None, args: argparse.Namespace, terminal: Terminal) -> int:
    """Write the tables and the report of a run, and print the tables; returns the exit code."""
    from refiner.evaluate.table import score
    from refiner.reports.evaluation import write_report
    from refiner.reports.papers import write_paper

    scored = score(run)
    paper = write_paper(scored.table, run.folder)
    page = write_report(run, scored, data or _again(run))
    tell_costs(run.ledgers(), args, terminal)
    if args.json:
        terminal.document(scored.table)
    else:
        if paper is not None:
            _show_paper(paper, terminal)
        _show(scored.table, terminal)
        terminal.say(f"report: {page}")
    return _tell_failures(run, scored, "", terminal)


def _tell_failures(run: Run, scored: Scored, prefix: str, terminal: Terminal) -> int:
    terminal.complain_some(f"{prefix}{failure.name}: {failure.kind}: {failure.detail}" for failure in scored.failures)
    terminal.complain_some(f"{prefix}{note}" for note in scored.notes)
    failed, missed, missing = _total(scored, "errors"), _total(scored, "misses"), scored.table["missing"]
    if failed or missing:
        as_missed = f" (and {missed} counted as misses)" if missed else ""
        terminal.complain(
            f"{prefix}{failed - missed} samples without scores{as_missed}, {missing} not run, of {run.samples}."
        )
    return FAILED if failed or missing else DONE


def _total(scored: Scored, kind: str) -> int:
    return sum(scored.table[kind].values())


def finish_all(runs: Mapping[str, Run], args: argparse.Namespace, terminal: Terminal) -> int:
    """Write each run's tables and report and the table of all runs, print that last table, and return the exit code."""
    from refiner.evaluate import peers, robustness
    from refiner.evaluate.table import score
    from refiner.reports.evaluation import write_report
    from refiner.reports.papers import write_paper, write_peers_paper, write_robustness_paper

    found, code = {}, DONE
    for name, run in runs.items():
        found[name] = scored = score(run)
        write_paper(scored.table, run.folder)
        write_report(run, scored, _again(run))
        code |= _tell_failures(run, scored, f"{name}: ", terminal)
    tell_costs(functools.reduce(added, (run.ledgers() for run in runs.values()), {}), args, terminal)
    if set(runs) <= set(peers.PEERS):
        document = peers.compare(found)
        peers.write_peers(document, args.out)
        paper, file = write_peers_paper(document, args.out), peers.PEERS_CSV
    else:
        document = robustness.compare({name: each.table for name, each in found.items()})
        robustness.write_robustness(document, args.out)
        paper, file = write_robustness_paper(document, args.out), robustness.ROBUSTNESS_CSV
    terminal.answer(args, document, lambda: _show_all(document, paper, Path(args.out) / file, terminal))
    return code


def _show_all(document: Json, paper: PaperTable, file: Path, terminal: Terminal) -> None:
    _show_paper(paper, terminal)
    counts = (f"{run['scored']} of {name}" for name, run in document["runs"].items())
    terminal.say(f"samples scored: {', '.join(counts)}, of {document['samples']}")
    terminal.say(f"signature: {next(iter(document['runs'].values()))['signature']}")
    terminal.say(f"all figures: {file}")


def _show_paper(paper: PaperTable, terminal: Terminal) -> None:
    grid = plain_grid(gap=3 if len(paper.columns) < 5 else 1)
    for place, name in enumerate(paper.columns):
        grid.add_column(name, justify="right" if place else "left")
    for row in paper.rows:
        grid.add_row(*map(Text, row))
    terminal.out.print(grid)


def _again(run: Run) -> DataSet | None:
    """The dataset of an earlier run, or None if it is missing or has changed."""
    from refiner.data.samples import digest
    from refiner.evaluate.robustness import open_source

    try:
        data = open_source(run.description["data"])
    except UserError:
        return None
    return data if digest(data.names) == run.description["data"]["digest"] else None


def tell_shards(runs: Mapping[str, Run], file: str, args: argparse.Namespace, terminal: Terminal) -> int:
    """Print the file of each shard, how many of its samples are done, and the command that merges the shards."""
    documents = [
        {"file": str(run.folder / file), "records": len(run.records), "samples": run.samples} for run in runs.values()
    ]
    if args.json:
        terminal.document(documents[0] if len(documents) == 1 else documents)
        return DONE
    for document in documents:
        terminal.say(f"{document['records']} of {document['samples']} samples: {document['file']}")
    terminal.say(f"when all shards are done, run: refiner evaluate merge {args.out} --out {args.out}")
    return DONE


def _show(table: Json, terminal: Terminal) -> None:
    from refiner.metrics.intervals import few_words
    from refiner.reports.plots import number, words

    grid = plain_grid()
    grid.add_column("figure")
    grid.add_column("value", justify="right")
    grid.add_column("95 % interval")
    grid.add_column("coverage")
    coverage, figures = Coverage(**table["coverage"]), table["figures"]
    for name, value in figures.items():
        if name.endswith(("_low", "_high")):
            continue
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        margin = "" if low is None or high is None else f"{number(low)} to {number(high)}"
        grid.add_row(Text(words(name)), number(value), margin, coverage.brief())
    terminal.out.print(grid)
    missed = sum(table["misses"].values())
    said = f"{table['scored']} of {table['samples']} samples scored" + (f", {missed} as misses" if missed else "")
    problems = [f"{count} {words(kind)}" for kind, count in {**table["errors"], **table["problems"]}.items()]
    terminal.say("; ".join([said, *problems]))
    terminal.say(coverage.words())
    if few := few_words(table["scored"], "samples"):
        terminal.say(few)
    terminal.say(f"signature: {table['signature']}")
