"""The tables of papers, with their columns, scale and rounding: for the terminal, and as Markdown files.

The figures are those of ``table.json``, ``robustness.json`` and ``peers.json`` times 100, with two decimals. Changes
have one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from refiner.evaluate.figures import Figures
from refiner.evaluate.peers import COSTS, MEASURES, NONE
from refiner.evaluate.robustness import CLEAN
from refiner.files import Json, atomic_write
from refiner.metrics.perturbations import Perturbation
from refiner.metrics.sdg import TYPES
from refiner.reports.evaluation import lead
from refiner.reports.page import covered
from refiner.reports.plots import words
from refiner.reports.terms import legend

PAPER_FILE, ROBUSTNESS_PAPER_FILE, PEERS_PAPER_FILE = "table.md", "robustness.md", "peers.md"
_UNKNOWN: Final = "–"
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#~&$])")


class Paper(NamedTuple):
    """A table of a paper: its columns, and its rows below those of the groups."""

    source: str
    columns: tuple[tuple[str, str], ...]
    """Heading and figure of each column."""
    rows: tuple[tuple[str, str], ...] = (("overall", ""),)
    """Label of each row, and what follows the names of the figures in it. A row without any figure is left out."""
    of_group: tuple[tuple[str, str], ...] = (("", ""),)
    """The same for each group; the labels follow its name."""
    intervals: bool = True
    """Whether the cells have the 95 % intervals."""
    optional: tuple[str, ...] = ()
    """Figures whose columns are left out if no row has them."""


PAPERS: Final[Mapping[str, Paper]] = {
    "localization": Paper("LEGION, Table 2", (("mIoU", "miou"), ("F1", "f1"))),
    "explanation": Paper("LEGION, Table 3", (("ROUGE-L", "rouge_l"), ("CSS", "css"))),
    "defects": Paper(
        "SDG, Table 2",
        tuple(
            (name.replace("Type", " Type").replace("@", " @"), name)
            for name in ("DetTypeF1", "ClnAcc", "BoxF1@0.1", "BoxF1@0.5", "DescCos@0.1", "ImpAcc@0.1")
        ),
        tuple((f"overall, {kind}", f"_{kind}") for kind in TYPES),
        tuple((f", {kind}", f"_{kind}") for kind in TYPES),
        intervals=False,
    ),
    "detection": Paper(
        "LEGION, Table 5 (Acc) and X-AIGD's table of detectors (the other columns; IoU and PixF1 of the heat maps)",
        (
            ("Acc", "accuracy"),
            ("Balanced", "balanced_accuracy"),
            ("F1", "f1"),
            ("P", "precision"),
            ("R", "recall"),
            ("IoU", "heatmap_IoU"),
            ("PixF1", "heatmap_PixF1"),
        ),
        (("GANs", "_gans"), ("Diffusion", "_diffusion"), ("mean of the groups", "_group_mean"), ("all images", "")),
        optional=("heatmap_IoU", "heatmap_PixF1"),
    ),
}
"""By task; the other tasks have no such table."""


class PaperTable(NamedTuple):
    """A table of texts, ready to be shown."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """The signatures, a line each."""
    terms: tuple[tuple[str, str], ...]
    """What the headings mean."""

    def markdown(self) -> str:
        """The table as a Markdown document; no text in it is read as Markdown."""
        rule = f"| --- |{' ---: |' * (len(self.columns) - 1)}"
        header, *rows = (f"| {' | '.join(map(_plain, row))} |" for row in (self.columns, *self.rows))
        notes = [f"    {_one_line(note)}" for note in self.notes]
        terms = [f"- {_plain(term)}: {_plain(meaning)}." for term, meaning in self.terms]
        told = [f"# {_plain(self.title)}", "", _plain(self.caption), ""]
        lines = [*told, header, rule, *rows, "", *terms, "", *notes, ""]
        return "\n".join(lines)


def write_paper(table: Json, folder: str | Path) -> PaperTable | None:
    """Write ``table.md`` from the table of a run, and return what it shows: a row for each group, then all samples.

    Returns:
        None for a task that is in no paper's table; then no file is written.

    Raises:
        OutputError: the folder cannot be written.
    """
    paper = PAPERS.get(table["task"])
    if paper is None:
        return None
    paper = _known(paper, [table["figures"], *table["groups"].values()])
    rows = [
        (f"{name}{label}", str(row["scored"]), *_cells(paper, row, ending), covered(row["coverage"]))
        for name, row in table["groups"].items()
        for label, ending in paper.of_group
        if not ending or any(f"{figure}{ending}" in row for _, figure in paper.columns)
    ]
    of_images = {ending for _, ending in paper.of_group}  # the others are means of groups
    for label, ending in paper.rows:
        count, coverage = str(table["scored"]), covered(table["coverage"])
        if ending not in of_images:
            count = coverage = _UNKNOWN
        if any(f"{figure}{ending}" in table["figures"] for _, figure in paper.columns):
            rows.append((label, count, *_cells(paper, table["figures"], ending), coverage))
    made = PaperTable(
        title=_title(table, ""),
        caption=f"As {paper.source}, times 100. {lead(table)}",
        columns=("group", "n", *(heading for heading, _ in paper.columns), "coverage"),
        rows=tuple(rows),
        notes=(table["signature"],),
        terms=_terms(paper),
    )
    atomic_write(Path(folder) / PAPER_FILE, made.markdown().encode("utf-8", "replace"))
    return made


def write_robustness_paper(document: Json, folder: str | Path) -> PaperTable:
    """Write ``robustness.md`` from the document of ``compare``, and return what it shows: a row for each perturbation.

    The change against the clean run stands behind each figure, in percent.

    Raises:
        OutputError: the folder cannot be written.
    """
    runs = dict(document["runs"])
    paper = _known(PAPERS[document["task"]], [run["figures"] for run in runs.values()])
    clean = runs.pop(CLEAN)
    rows = [("No Distortion", str(clean["scored"]), *_cells(paper, clean["figures"]), covered(clean["coverage"]))]
    for name, run in runs.items():
        label = Perturbation.parse(name.replace("-", ":", 1)).label
        cells = _cells(paper, run["figures"], changes=run["change"])
        rows.append((label, str(run["scored"]), *cells, covered(run["coverage"])))
    said = "in parentheses the change against no distortion"
    made = PaperTable(
        title=_title(document, " with distortions"),
        caption=f"As LEGION, Table 10, times 100; {said}. {document['samples']} samples, of which n are scored.",
        columns=("distortion", "n", *(heading for heading, _ in paper.columns), "coverage"),
        rows=tuple(rows),
        notes=(clean["signature"], *(run["signature"].removeprefix(f"{clean['signature']}|") for run in runs.values())),
        terms=_terms(paper),
    )
    atomic_write(Path(folder) / ROBUSTNESS_PAPER_FILE, made.markdown().encode("utf-8", "replace"))
    return made


def write_peers_paper(document: Json, folder: str | Path) -> PaperTable:
    """Write ``peers.md`` from the document of ``peers.compare``, and return what it shows: a column for each system.

    Raises:
        OutputError: the folder cannot be written.
    """
    columns, rows = [run["figures"] for run in document["runs"].values()], []
    for name in MEASURES:
        for when in ("before", "after"):
            values = (figures.get(f"{name}_{when}") for figures in columns)
            rows.append(
                (f"{name.upper()} {when}", *(_UNKNOWN if value is None else f"{100 * value:.2f}" for value in values))
            )
        rows.append((f"{name.upper()} growth, %", *(_signed(figures.get(f"{name}_growth")) for figures in columns)))
        bounds = [[figures.get(f"{name}_growth_{end}") for end in ("low", "high")] for figures in columns]
        rows.append(
            ("95 % interval", *(_UNKNOWN if None in pair else " to ".join(map(_signed, pair)) for pair in bounds))
        )
    for name in COSTS:
        means = (figures.get(name) for figures in columns)
        rows.append((words(name), *(_UNKNOWN if value is None else f"{value:.1f}" for value in means)))
    runs = document["runs"]
    rows.append(("coverage", *(covered(run["coverage"]) for run in runs.values())))
    made = PaperTable(
        title=_title(document, " beside its peers"),
        caption=f"As LEGION, Table 4, times 100: the judge's score (HPS) and the share of pixels that the detector "
        f"flags (PAR), of {document['compared']} of {document['samples']} samples, which all systems scored. Growth is "
        f"the change of the mean. {NONE} keeps the start image; refiner keeps what this judge and detector find "
        "better; LEGION's two controllers verify nothing and keep the last image.",
        columns=("", *runs),
        rows=tuple(rows),
        notes=(runs[NONE]["signature"],),
        terms=tuple(legend((*MEASURES, *COSTS, "coverage")).items()),
    )
    atomic_write(Path(folder) / PEERS_PAPER_FILE, made.markdown().encode("utf-8", "replace"))
    return made


def _known(paper: Paper, figures: Sequence[Figures]) -> Paper:
    """The paper's table without the optional columns that no figures have."""
    missing = {name for name in paper.optional if not any(name in row for row in figures)}
    return paper._replace(columns=tuple(each for each in paper.columns if each[1] not in missing))


def _terms(paper: Paper) -> tuple[tuple[str, str], ...]:
    """The headings of a table's columns, and what they mean."""
    named = (("n", "scored"), *paper.columns, ("coverage", "coverage"))
    return tuple((heading, meaning) for heading, name in named for meaning in list(legend([name]).values())[:1])


def _signed(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{round(value, 2) + 0.0:+.2f}"


def _title(document: Json, what: str) -> str:
    return f"{words(document['task']).capitalize()} on {document['data']['specification']}{what}"


def _cells(paper: Paper, figures: Figures, ending: str = "", changes: Figures | None = None) -> list[str]:
    """The cells of a row, with their 95 % intervals or changes if there are any."""
    cells = []
    for _, name in paper.columns:
        value, low, high = (figures.get(f"{name}{ending}{end}") for end in ("", "_low", "_high"))
        change = (changes or {}).get(name)
        cell = _UNKNOWN if value is None else f"{100 * value:.2f}"
        if paper.intervals and low is not None and high is not None:
            cell += f" ({100 * low:.2f} to {100 * high:.2f})"
        cells.append(cell if change is None else f"{cell} ({round(change, 1) + 0.0:+.1f}%)")
    return cells


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", _one_line(text))
