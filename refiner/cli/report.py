"""``refiner report``: tables, COCO and a contact sheet from the records of a detector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from refiner.cli.detect_results import show_table
from refiner.cli.options import DONE
from refiner.cli.report_tools import report_tools
from refiner.cli.view import Terminal
from refiner.coverage import Coverage
from refiner.errors import ConfigError, InputError
from refiner.files import Json, check_writable

if TYPE_CHECKING:
    from refiner.verify.recorded import RecordedLooks

FORMATS: Final = {
    "table": "detections.json and detections.csv, the figures of all images",
    "csv": "images.csv and flaws.csv, a row for each",
    "jsonl": "images.jsonl, a line for each image",
    "coco": "coco.json",
    "html": "contact/index.html, a sheet of small images with their flaws marked",
}


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner report``."""
    parser.description = "Make tables and a contact sheet from records. Nothing is detected again."
    words = "folder that refiner detect, evaluate or (with --tools) refine wrote with --out, or records.jsonl in it"
    parser.add_argument("records", metavar="RECORDS", help=words)
    listed = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--format", metavar="NAME,NAME", help=f"what to write (all): {listed}")
    parser.add_argument("--out", metavar="DIR", help="where to write (the folder of the records)")
    words = "order of the contact sheet: the worst images first, or as in the run (severity)"
    parser.add_argument("--sort", choices=("severity", "name"), default="severity", help=words)
    words = "images of the contact sheet: with flaws, without an answer, or all (all)"
    parser.add_argument("--show", choices=("all", "flawed", "unanswered"), default="all", help=words)
    words = "instead: how often each tool repaired each kind of flaw in the runs (run.json) below RECORDS"
    parser.add_argument("--tools", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="print the table as one JSON document and nothing else")
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.reports.detections import Summary, read_found

    if args.tools:
        return report_tools(args, terminal)
    formats = _formats(args.format)
    looks = _opened(args.records)
    folder, summary = check_writable(args.out or looks.folder), Summary()
    for record in terminal.track(looks.records, "reading"):
        summary.add(read_found(record))
    table = summary.table(_samples(looks))
    files = list[str]()
    for name in (name for name in FORMATS if name in formats):
        files += map(str, _write(name, looks, table, folder, args, terminal))

    def show() -> None:
        show_table(table, terminal)
        for file in files:
            terminal.say(file)

    terminal.answer(args, table | {"files": files}, show)
    return DONE


def _formats(text: str | None) -> set[str]:
    """The formats that are wanted.

    Raises:
        ConfigError: one of them does not exist.
    """
    names = set(FORMATS) if text is None else {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(FORMATS)):
        known = ", ".join(FORMATS)
        raise ConfigError(f"Expected --format of {known}, got {unknown[0]!r:.60}: write some of these, with commas.")
    return names


def _opened(place: str) -> RecordedLooks:
    """The records of a folder, with what reads their images."""
    from refiner.evaluate.detecting import RECORDS_FILE
    from refiner.verify.recorded import RecordedLooks
    from refiner.verify.sources import is_results, open_looks

    path = Path(place)
    folder = path.parent if path.name == RECORDS_FILE else path
    looks = open_looks(str(folder)) if is_results(str(folder)) else None
    if not isinstance(looks, RecordedLooks):
        raise InputError(
            f"{place!r} holds no records: name a folder that refiner detect --out or refiner evaluate --out wrote."
        )
    if not len(looks):
        raise InputError(f"Expected records in {place!r}, got none: run the detector first.")
    return looks


def _samples(looks: RecordedLooks) -> int:
    """How many images the run has; as many as there are records if that is not known."""
    from refiner.evaluate.harness import RUN_FILE, read_description

    if not (looks.folder / RUN_FILE).is_file():
        return len(looks)
    return int(read_description(looks.folder)["data"]["samples"])


def _write(
    name: str, looks: RecordedLooks, table: Json, folder: Path, args: argparse.Namespace, terminal: Terminal
) -> list[Path]:
    """Write the files of a format."""
    from refiner.reports import detections

    records = looks.records
    if name == "table":
        return detections.write_table(table, folder)
    if name == "html":
        return _write_gallery(looks, table, folder, args, terminal)
    write = {"csv": detections.write_csv, "jsonl": detections.write_jsonl}
    tracked = terminal.track(records, f"writing {name}")
    return detections.write_coco_file(tracked, folder, table) if name == "coco" else write[name](tracked, folder)


def _write_gallery(
    looks: RecordedLooks, table: Json, folder: Path, args: argparse.Namespace, terminal: Terminal
) -> list[Path]:
    from refiner.reports.gallery import chosen_images, write_gallery

    indices = chosen_images(looks.records, args.sort, args.show)
    missing = f"; {table['missing']} not run" if table["missing"] else ""
    pages = write_gallery(
        looks.records,
        terminal.track(indices, "drawing"),
        looks.read,
        folder,
        title=looks.folder.resolve().name,
        lead=f"{_flawed(table['figures'])}; {Coverage(**table['coverage']).words()}{missing}.",
        total=len(indices),
    )
    return pages[:1]


def _flawed(figures: Json) -> str:
    images, flaws = figures["flawed"], figures["flaws"]
    return f"{flaws} flaw{'' if flaws == 1 else 's'} in {images} image{'' if images == 1 else 's'}"
