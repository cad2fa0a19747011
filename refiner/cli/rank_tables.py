"""Tables and reports that ``refiner rank`` writes and shows, made from the records of its runs."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from refiner.cli.options import DONE, FAILED
from refiner.cli.rank_runs import Contest
from refiner.cli.view import Terminal, plain_grid
from refiner.coverage import Coverage
from refiner.files import Json, check_writable

if TYPE_CHECKING:
    from refiner.evaluate.harness import Run


def finish_one(contest: Contest, runs: Mapping[str, Run], args: argparse.Namespace, terminal: Terminal) -> int:
    """Write the tables and reports of a ranking by one detector, print the ranking, and return the exit code."""
    from refiner.evaluate.ranking import rank_runs

    _write_reports(contest, runs, "", terminal)
    document = rank_runs(runs, contest.prompts.prompts_of, by=args.by)
    page = _write_ranking(contest, runs, document, contest.root)
    terminal.answer(args, document, lambda: _show(document, page, terminal))
    return _tell_failed(document, "", terminal)


def finish_several(
    contest: Contest, runs: Mapping[str, Mapping[str, Run]], args: argparse.Namespace, terminal: Terminal
) -> int:
    """The same for several detectors: a ranking in the folder of each one, and how far they agree."""
    from refiner.evaluate.audit import audit_runs, write_audit
    from refiner.reports.audit import write_audit_report

    for detector, of_detector in runs.items():
        _write_reports(contest, of_detector, f"{detector}: ", terminal)
    document = audit_runs(runs, contest.prompts.prompts_of, by=args.by)
    code = DONE
    for row in document["detectors"]:
        if row["ranking"] is None:
            terminal.complain(f"{row['name']}: {row['error']}")
            code = FAILED
        else:
            folder = check_writable(contest.root / row["folder"])
            _write_ranking(contest, runs[row["name"]], row["ranking"], folder)
            code |= _tell_failed(row["ranking"], f"{row['name']}: ", terminal)
    write_audit(document, contest.root)
    page = write_audit_report(document, runs, contest.root)
    terminal.answer(args, document, lambda: _show_several(document, page, terminal))
    return code


def _write_reports(contest: Contest, runs: Mapping[str, Run], prefix: str, terminal: Terminal) -> None:
    """Write table and report of each run, and name the images that failed."""
    from refiner.evaluate.table import score
    from refiner.reports.evaluation import write_report

    shown = contest.shown()
    for name, run in runs.items():
        scored = score(run)
        write_report(run, scored, shown[name])
        terminal.complain_some(f"{prefix}{name}: {each.name}: {each.kind}: {each.detail}" for each in scored.failures)


def _write_ranking(contest: Contest, runs: Mapping[str, Run], document: Json, folder: Path) -> Path:
    from refiner.evaluate.ranking import write_tables
    from refiner.reports.ranking import write_rank_report

    write_tables(document, folder)
    return write_rank_report(document, runs, contest.shown(), folder)


def _tell_failed(document: Json, prefix: str, terminal: Terminal) -> int:
    """Say how many images have no scores; returns the exit code."""
    failed = {system["name"]: sum(system["errors"].values()) for system in document["systems"]}
    if not any(failed.values()):
        return DONE
    counts = ", ".join(f"{count} of {name}" for name, count in failed.items() if count)
    compared = f"{document['pictures']} of {document['of']} images are compared"
    terminal.complain(f"{prefix}images without scores: {counts}; {compared}.")
    return FAILED


def _show(document: Json, page: Path, terminal: Terminal) -> None:
    _show_figures(document, terminal)
    by = document["by"]
    for one, other in itertools.pairwise(document["orders"][by]):
        share = document["wins"][by][one][other]["overall"]
        terminal.say(f"{one} against {other}: better {by} with a probability of {100 * share:.0f} %")
    terminal.say(f"{_compared(document)} Below each figure: its 95 % interval.")
    terminal.say(f"signature: {document['signature']}")
    terminal.say(f"report: {page}")


def _compared(document: Json) -> str:
    from refiner.metrics.intervals import few_words

    few = few_words(document["prompts"], "prompts")
    return " ".join(
        filter(None, [f"{document['pictures']} of {document['of']} images, {document['prompts']} prompts.", few])
    )


def _show_figures(document: Json, terminal: Terminal) -> None:
    """A row for each generator, with its figures and their intervals."""
    from refiner.evaluate.ranking import HIGHER_IS_BETTER, VARIANTS
    from refiner.reports.plots import short, words

    table = plain_grid()
    table.add_column("", justify="right")
    table.add_column("generator", overflow="fold")
    names = [name for name in document["systems"][0]["figures"] if name not in VARIANTS]
    for name in names:
        table.add_column(f"{words(name)} {'↑' if name in HIGHER_IS_BETTER else '↓'}", no_wrap=True)
    table.add_column("coverage", overflow="fold")
    for system in document["systems"]:
        cells = [Text(str(system["place"])), Text(system["name"])]
        for name in names:
            figure = system["figures"][name]
            known = figure["low"] is not None
            interval = f"{short(figure['low'])}–{short(figure['high'])}" if known else ""
            cells.append(Text.assemble(short(figure["value"]), "\n", (interval, "dim")))
        table.add_row(*cells, Text(Coverage(**system["coverage"]).brief()))
    terminal.out.print(table)


def _show_several(document: Json, page: Path, terminal: Terminal) -> None:
    rankings = {row["name"]: row["ranking"] for row in document["detectors"] if row["ranking"] is not None}
    for name, ranking in rankings.items():
        terminal.say(f"{name}: {_compared(ranking)}")
        _show_figures(ranking, terminal)
    _show_places(rankings, document["by"], terminal)
    terminal.say("Kendall's tau of two rankings (1: the same order, -1: the reversed one):")
    for pair in document["agreement"]:
        told = ", ".join(_told(name, tau) for name, tau in pair["tau"].items())
        terminal.say(f"{pair['one']} and {pair['other']}, {pair['prompts']} prompts: {told}")
    if any(tau["undefined"] for pair in document["agreement"] for tau in pair["tau"].values()):
        terminal.say("undefined: in this share of the bootstrap draws, a detector ties all generators")
    terminal.say("95 % intervals below or behind the figures")
    terminal.say(f"signature: {document['signature']}")
    terminal.say(f"report: {page}")


def _show_places(rankings: Mapping[str, Json], by: str, terminal: Terminal) -> None:
    """A row for each generator, with its place by each detector."""
    table = plain_grid()
    table.add_column(f"places by {by}", overflow="fold")
    for name in rankings:
        table.add_column(Text(name), justify="right", overflow="fold")
    places = [{system["name"]: system["place"] for system in ranking["systems"]} for ranking in rankings.values()]
    for generator in places[0]:
        table.add_row(Text(generator), *(str(each[generator]) for each in places))
    terminal.out.print(table)


def _told(name: str, tau: Json) -> str:
    from refiner.reports.audit import tau_words

    value, *rest = tau_words(tau)
    behind = "; ".join(filter(None, rest))
    return f"{name} {value} ({behind})" if behind else f"{name} {value}"
