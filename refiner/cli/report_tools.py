"""``refiner report RECORDS --tools``: how often each tool repaired each kind of flaw."""

from __future__ import annotations

import argparse
from pathlib import Path

from refiner.cli.options import DONE
from refiner.cli.view import Terminal, plain_grid
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.repairs import LEAST_TRIES, TABLE_FILE, ToolTable, success, tool_table


def report_tools(args: argparse.Namespace, terminal: Terminal) -> int:
    """Count the repairs in run records, and print the table; with ``--out``, also write it."""
    table = tool_table(args.records)
    document: Json = {"table": table, "rows": _rows(table), "files": []}
    if args.out is not None:
        file = Path(check_writable(args.out)) / TABLE_FILE
        atomic_write(file, dumps(table) + "\n")
        document["files"] = [str(file)]
    terminal.answer(args, document, lambda: _show(document, terminal))
    return DONE


def _rows(table: ToolTable) -> list[Json]:
    rows = []
    for category, tools in table.items():
        for tool, (better, tries) in tools.items():
            found = success(better, tries)
            assert found is not None
            row = {"category": category, "tool": tool, "better": better, "tries": tries, **found._asdict()}
            rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def _show(document: Json, terminal: Terminal) -> None:
    if not document["rows"]:
        terminal.say("The records hold no repairs: run refiner refine with this version of refiner.")
        return
    grid = plain_grid()
    for name in ("flaw", "tool"):
        grid.add_column(name)
    for name in ("repaired", "tries", "share", "95 % interval"):
        grid.add_column(name, justify="right")
    for row in document["rows"]:
        few = " (few)" if row["tries"] < LEAST_TRIES else ""
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        counts = str(row["better"]), f"{row['tries']}{few}"
        grid.add_row(row["category"], row["tool"], *counts, f"{row['share']:.2f}", interval)
    terminal.out.print(grid)
    for file in document["files"]:
        terminal.say(file)
