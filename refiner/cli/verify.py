"""``refiner verify``: people check the claims of detectors, or the annotations of data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from refiner.cli.demo import need_gradio, quiet_server
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.options import DONE, count, port
from refiner.cli.view import Terminal, plain_grid
from refiner.data.problems import Problem
from refiner.data.sources import sources_help
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.reports.plots import number

if TYPE_CHECKING:
    from refiner.verify.verification import Verification

FOLDER = "verify"
"""The sub-folder of a folder of results for the judgements."""
PLOT_FILE = "severity.png"


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner verify``."""
    parser.description = (
        "Serve a page that shows one claimed flaw at a time. Accept it, reject it, or say that you are unsure. Each "
        "answer is kept at once; start again to go on where you stopped."
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help=f"a folder that refiner detect --out or refiner evaluate --out wrote; or a data set: {sources_help()}",
    )
    parser.add_argument("--references", metavar="FILE", help="AnomReason's JSON of file name -> anomalies of a folder")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N records or samples")
    parser.add_argument("--out", metavar="DST", help=f"folder of the judgements ({FOLDER}/ in a folder of results)")
    parser.add_argument("--annotator", metavar="NAME", help="your name; without it, the page asks for it")
    words = "hide severity, detector, file name and the judgements of others"
    parser.add_argument("--blind", action="store_true", help=words)
    parser.add_argument("--port", type=port, help="port to listen on (the first free one from 7860)")
    words = "write the accepted flaws as training data, fakexplained:DST2; it must not exist yet, or be empty"
    parser.add_argument("--export", metavar="DST2", help=words)
    words = "count the answers, draw the severities before and after, and measure how far the annotators agree"
    parser.add_argument("--summary", action="store_true", help=words)
    words = "only this annotator's judgements count for --export and --summary (the majority of all)"
    parser.add_argument("--by", metavar="NAME", help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_verify, check=lambda args: _check(parser, args))


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    from refiner.verify.sources import is_results

    serves = not (args.summary or args.export)
    if serves and (args.by or args.json):
        parser.error("--by and --json need --summary or --export")
    if not serves and (args.annotator or args.blind or args.port):
        parser.error("--annotator, --blind and --port are of the page, which --summary and --export do not serve")
    if args.out is None and not is_results(args.data):
        parser.error("a data set needs --out, the folder of the judgements")


def _verify(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.export:
        from refiner.data.writing import check_target

        check_target(Path(args.export))
    if args.summary or args.export:
        return _report(args, terminal)
    need_gradio("The page of refiner verify")
    from refiner.verify.judgements import annotator_name

    annotator = None if args.annotator is None else annotator_name(args.annotator)
    verification = _opened(args, terminal)
    with quiet_server(terminal):
        from refiner.demo.verifying import serve

        def ready(address: str) -> None:
            terminal.say(f"verify: {address}")

        serve(verification, annotator=annotator, blind=args.blind, port=args.port, ready=ready)
    return DONE


def _opened(args: argparse.Namespace, terminal: Terminal) -> Verification:
    from refiner.verify.sources import open_looks
    from refiner.verify.verification import open_verification

    source = open_looks(args.data, references=args.references)
    folder = check_writable(args.out or Path(args.data) / FOLDER)
    tell_problems(source.problems, terminal)
    entries = len(source) if args.limit is None else min(args.limit, len(source))
    problems: list[Problem] = []
    try:
        numbers = terminal.track(range(entries), "reading")
        return open_verification(source, folder, problems, numbers, limit=args.limit)
    finally:
        tell_problems(problems, terminal)


def _report(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.verify.summary import summarise

    verification = _opened(args, terminal)
    document: Json = {}
    if args.summary:
        document = summarise(verification, args.by)
        document["files"] = _write_summary(verification, document, args.by)
        if not args.json:
            _show(terminal, document)
    if args.export:
        document["export"] = _export(args, verification, terminal)
    if args.json:
        terminal.document(document)
    return DONE


def _write_summary(verification: Verification, document: Json, by: str | None) -> Json:
    """Write ``summary.json`` and, if a severity is known, the plot; returns their paths by name."""
    from refiner.reports.severity import save_severities
    from refiner.verify.summary import SUMMARY_FILE, accepted_rows, severities

    before, after = severities(verification.listing.rows), severities(accepted_rows(verification, by))
    files = [atomic_write(verification.folder / SUMMARY_FILE, dumps(document) + "\n")]
    if before:
        files.append(save_severities(before, after, verification.folder / PLOT_FILE))
    return {path.name: str(path) for path in files}


def _show(terminal: Terminal, document: Json) -> None:
    judged, total = document["judged"], document["candidates"]
    terminal.say(f"{judged} of {total} candidates judged, {document['accepted']} accepted")
    means = document["per_image"]
    terminal.say(f"per image: {number(means['before'])} candidates, {number(means['after'])} accepted")
    severity = document["severity"]
    if severity["before"]["count"]:
        means = [number(severity[when]["mean"]) for when in ("before", "after")]
        terminal.say(f"mean severity: {means[0]} of all, {means[1]} of the accepted")
    _grid(terminal, "annotator", document["annotators"])
    _grid(terminal, "kind", document["categories"])
    agreement = document["agreement"]
    for name, kappas in (("Cohen's", agreement["cohen"]), ("Fleiss'", [agreement["fleiss"]])):
        for kappa in filter(None, kappas):
            terminal.say(f"{name} kappa of {', '.join(kappa['annotators'])}: {_kappa(kappa)}")
    if len(document["annotators"]) < 2:
        terminal.say("agreement: not defined, because there are fewer than two annotators")
    for kind, lines in document["ignored"].items():
        if lines:
            words = {"unreadable": "unreadable lines", "other": "judgements about other candidates"}
            terminal.complain(f"{lines} {words[kind]} in the file of judgements count nothing.")
    for path in document["files"].values():
        terminal.say(path)


def _kappa(kappa: Json) -> str:
    items = f"{kappa['items']} candidates"
    if kappa["value"] is None:
        return f"not defined, because {kappa['undefined']} ({items})"
    interval = "" if kappa["low"] is None else f" ({kappa['low']:.3f} to {kappa['high']:.3f})"
    return f"{kappa['value']:.3f}{interval}; the same answer in {100 * kappa['agreement']:.0f} % of {items}"


def _grid(terminal: Terminal, head: str, rows: Json) -> None:
    if not rows:
        return
    table = plain_grid()
    table.add_column(head)
    for name in next(iter(rows.values())):
        table.add_column(name.lower(), justify="right")
    for name, row in rows.items():
        table.add_row(Text(name.replace("_", " ") if head == "kind" else name), *map(str, row.values()))
    terminal.out.print(table)


def _export(args: argparse.Namespace, verification: Verification, terminal: Terminal) -> Json:
    from refiner.verify.export import export_accepted

    problems: list[Problem] = []
    try:
        document = export_accepted(
            verification, args.export, problems, by=args.by, track=lambda todo: terminal.track(todo, "exporting")
        )
    finally:
        tell_problems(problems, terminal)
    if not args.json:
        terminal.say(
            f"{args.export}: {document['anomalies']} accepted flaws of {document['images']} images, "
            f"{document['regions']} of them with a place; {len(document['without_accepted'])} images without an "
            "accepted flaw are left out"
        )
    return document
