"""Output of the command line: tables and progress for people, one JSON document for programs."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from refiner.cli.wording import in_option_words
from refiner.files import Json, dumps
from refiner.reports.overlays import flaw_words, place_words
from refiner.types import Analysis, Attempt

T = TypeVar("T")
MOST_TOLD = 10
"""Most sentences of one kind on the terminal."""
_NOT_ASCII: Final = re.compile("[^\x00-\x7f]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller to end the program; rich would exit at once."""
        raise BrokenPipeError


@dataclass(frozen=True)
class Terminal:
    """Documents go to ``out``; tables, progress and error messages go to ``err``.

    Both write to the streams that ``sys.stdout`` and ``sys.stderr`` are when the terminal is made.
    """

    out: Console = field(default_factory=lambda: _Console(file=sys.stdout, highlight=False, emoji=False))
    err: Console = field(default_factory=lambda: _Console(file=sys.stderr, highlight=False, emoji=False))
    options: frozenset[str] = frozenset()
    """Names of the sub-command's options, with underscores; error messages name these instead of arguments."""

    def document(self, document: Json | list[Json]) -> None:
        """Print a JSON document on stdout."""
        self.lines([dumps(document) + "\n"])

    def lines(self, document: Iterable[str]) -> None:
        """Print the lines of a JSON document on stdout; letters that its encoding does not have are escaped."""
        for line in document:
            self.out.file.write(_encodable(line, self.out.encoding))
        self.out.file.flush()

    def say(self, text: str) -> None:
        """Print a line of the answer on stdout."""
        self.out.print(text, markup=False, soft_wrap=True)

    def answer(self, args: argparse.Namespace, document: Json | list[Json], show: str | Callable[[], None]) -> None:
        """Print the document if ``args.json`` is set, else a line or what ``show`` prints."""
        if args.json:
            self.document(document)
        elif isinstance(show, str):
            self.say(show)
        else:
            show()

    def complain(self, error: object) -> None:
        """Print one sentence on stderr."""
        message = in_option_words(str(error), self.options)
        self.err.print(f"refiner: {message}", style="red", markup=False, soft_wrap=True)

    def complain_some(self, errors: Iterable[object]) -> None:
        """Print the first ``MOST_TOLD`` of many sentences on stderr, and say that there are more."""
        for number, error in enumerate(errors):
            if number == MOST_TOLD:
                self.complain("and more like these.")
                break
            self.complain(error)

    def discard(self) -> None:
        """Write nothing to stdout any more, because nobody reads it; else Python complains when it ends."""
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), self.out.file.fileno())

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show a spinner with a text on stderr."""
        with self.err.status(Text(what)) if self.err.is_terminal else nullcontext():
            yield

    def track(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Yield the items and count them with a bar on stderr."""
        with progress(self.err) as bars:
            yield from bars.track(items, description=what)


def _encodable(document: str, encoding: str) -> str:
    """The text of a JSON document in letters of an encoding."""
    try:
        document.encode(encoding)
    except UnicodeEncodeError:
        return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], document)
    return document


def progress(console: Console, *last: ProgressColumn) -> Progress:
    """A bar with count and the ``last`` columns, by default the elapsed time; it disappears at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(last or (TimeElapsedColumn(),)),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class RoundsView:
    """The table of attempts on stderr, which grows with each attempt, and a bar below it."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._table = plain_grid(gap=2)
        for name in ("#", "action", "flaws", "area", "judge", "verdict", "why", "time"):
            self._table.add_column(
                name,
                justify="right" if name in ("flaws", "area", "judge", "time") else "left",
                overflow="fold" if name == "why" else "ellipsis",
                no_wrap=name != "why",
            )
        self._bars = progress(console)
        self._task = self._bars.add_task("attempt 0", total=rounds + 1)
        self._live = Live(self._bars, console=console, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> RoundsView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self._table if self._table.rows else Text())
        self._live.stop()
        if self._table.rows and not self._live.console.is_terminal:
            self._live.console.line()  # rich ends the last line only on terminals

    def add(self, attempt: Attempt) -> None:
        """Add a row for an attempt."""
        flaws, area = "-", "-"
        if attempt.analysis is not None:
            flaws, share = str(len(attempt.analysis.regions)), attempt.analysis.known_ratio
            area = "not known" if share is None else f"{100 * share:.1f} %"
        scores = "  ".join(f"{score.value:.4g}" for score in attempt.scores)
        verdict = Text("accepted", "green") if attempt.accepted else Text("rejected", "red")
        why = Text(attempt.error or attempt.reason)
        self._table.add_row(
            str(attempt.index), attempt.action, flaws, area, Text(scores), verdict, why, f"{attempt.seconds:.1f} s"
        )
        self._live.update(Group(self._table, self._bars))
        self._bars.update(self._task, advance=1, description=f"attempt {attempt.index + 1}")

    def on_step(self, _pipe: object, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        """Show the denoiser step; a diffusers ``callback_on_step_end``."""
        attempt = len(self._table.rows)
        self._bars.update(self._task, description=f"attempt {attempt}, step {step + 1}")
        return tensors


def plain_grid(gap: int = 3) -> Table:
    """A table without lines; ``gap`` spaces follow each column."""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")


def show_analysis(terminal: Terminal, file: str, analysis: Analysis) -> None:
    """Print the flaws of one image on stdout."""
    verdict = ""
    if analysis.fake_probability is not None:
        verdict = f"; generated with probability {analysis.fake_probability:.2f}"
    gaps = "".join(f"; {gap.replace('_', ' ')}" for gap in analysis.gaps)
    terminal.say(f"{file}: {flaw_words(analysis)}{verdict}{gaps}")
    for tag in analysis.tags:
        terminal.say(f"  {tag}")
    if not analysis.regions:
        return
    table = plain_grid(gap=2)
    for name in ("", "what", "where", "kind", "severity", "why"):
        table.add_column(name, overflow="fold")
    for number, region in enumerate(analysis.regions, start=1):
        why = "; ".join(text.rstrip(".") for text in (region.explanation, region.reasoning) if text)
        cells = (str(number), region.name, place_words(region), str(region.category), f"{region.severity:.2f}", why)
        table.add_row(*(Text(cell) for cell in cells))
    terminal.out.print(table)
