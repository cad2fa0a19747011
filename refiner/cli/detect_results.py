"""What ``refiner detect`` writes and shows at the end, made from the records of the run one by one."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.text import Text

from refiner.cli.endpoint import tell_costs
from refiner.cli.options import DONE, FAILED, USER_ERROR
from refiner.cli.view import Terminal, plain_grid, show_analysis
from refiner.coverage import Coverage
from refiner.errors import InputError, is_user_error
from refiner.files import Json, atomic_stream, dumps
from refiner.images import save_png
from refiner.records import analysis_summary
from refiner.reports.overlays import overlay
from refiner.reports.plots import number, words

if TYPE_CHECKING:
    from refiner.data.samples import DataSet
    from refiner.evaluate.harness import Engine, Run, System
    from refiner.reports.detections import Found

FEW: Final = 100
"""Up to this many images, each is shown, and drawn with its regions; a run with more is for ``refiner report``."""
_TOLD: Final = 20
"""Failures of one kind that are told one by one."""


def telling(engine: Engine, terminal: Terminal) -> Engine:
    """The engine, which tells of images without an answer as they come, and at the end how many more there were."""

    def run(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        failures: Counter[str] = Counter()
        for rows in engine(data, system, indices):
            yield rows
            for row in rows:
                error = row["error"]
                if error is None:
                    continue
                failures[error["kind"]] += 1
                if failures[error["kind"]] <= _TOLD:
                    named = "truth" not in row  # the error of an image that could not be read names it
                    terminal.complain(error["detail"] if named else f"{row['name']}: {error['detail']}")
        for kind, times in failures.items():
            if times > _TOLD:
                terminal.complain(f"{times - _TOLD} more images without an answer ({kind}).")

    return run


def finish(run: Run, images: DataSet, args: argparse.Namespace, terminal: Terminal) -> int:
    """Write the document and the marked images, print what was asked for, and return the exit code."""
    from refiner.evaluate.detecting import DOCUMENT_FILE
    from refiner.reports.detections import Summary, read_found

    summary, shown = Summary(), args.out is None or run.samples <= FEW
    document = run.folder / DOCUMENT_FILE
    with atomic_stream(document) as stream:
        stream.write("[")
        for record in run.records:
            found = read_found(record)
            summary.add(found)
            if found.analysis is not None:
                row = {"file": record["name"], "analysis": analysis_summary(found.analysis)}
                stream.write(f"{',' * (summary.coverage.answered > 1)}\n{textwrap.indent(dumps(row), '  ')}")
            if args.out is not None and shown:
                _draw(found, images, run.folder)
        stream.write("\n]\n" if summary.coverage.answered else "]\n")
    if args.json:
        with document.open(encoding="utf-8") as lines:
            terminal.lines(lines)
    else:
        _show(run, summary.table(run.samples), args, terminal, each=shown)
    tell_costs(run.ledgers(), args, terminal)
    return _code(summary.errors)


def _draw(found: Found, images: DataSet, folder: Path) -> None:
    """Write an image with its regions marked."""
    index, name = found.record["index"], found.record["name"]
    try:
        image = images.load(index).image
    except InputError:  # it has vanished since
        return
    if image is not None and found.analysis is not None:
        save_png(overlay(image, found.analysis), folder / f"{index:02d}-{Path(name).stem}.png")


def _code(errors: Counter[str]) -> int:
    """The exit code, by kinds of errors."""
    if any(is_user_error(kind) for kind in errors):
        return USER_ERROR
    return FAILED if errors else DONE


def _show(run: Run, table: Json, args: argparse.Namespace, terminal: Terminal, *, each: bool) -> None:
    from refiner.reports.detections import read_found

    for found in map(read_found, run.records if each else ()):
        if found.analysis is not None:
            show_analysis(terminal, found.record["name"], found.analysis)
    if run.samples > 1:
        show_table(table, terminal)
    if args.out is not None:
        terminal.say(f"records: {run.folder}; tables, COCO and a contact sheet: refiner report {run.folder}")


def show_table(table: Json, terminal: Terminal) -> None:
    """Print the table of a run: figures of all images and by category, and the coverage."""
    grid = plain_grid()
    columns = [name for name in table["figures"] if name != "flaws_per_image"]
    for name in ("flaws of", *columns):
        grid.add_column(words(name), justify="left" if name == "flaws of" else "right")
    rows = {"all images": table["figures"], **table["categories"]}
    for name, row in rows.items():
        grid.add_row(Text(words(name)), *(number(row[column]) if column in row else "" for column in columns))
    terminal.out.print(grid)
    missing = f"; {table['missing']} not run" if table["missing"] else ""
    terminal.say(f"{Coverage(**table['coverage']).words()}{missing}")
