"""The task ``checklist``: which statements of the prompts hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from refiner.checklist import KINDS, of_trace
from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unscored, quotient, with_interval
from refiner.files import Json
from refiner.metrics.intervals import UNIT
from refiner.records import analysis_from_dict

_PARTS = (*KINDS, "all")
_COUNTED = ("asked", "decided", "holds")


@dataclass(frozen=True, kw_only=True)
class Checklist(Task):
    """The share of the statements that hold, of all prompts together and by kind of statement.

    A statement that needs another one that does not hold does not hold either (DSG, arXiv 2310.18235). A statement for
    which the model cannot tell, or whose answer could not be read, is left out of the shares; ``decided`` says how many
    are not. An image counts in ``all_hold`` only if all its statements are decided. An answer that could not be read
    has no figures.
    """

    plots = Plots(histograms=("share",), worst="share", higher_is_better=True, bars=("holds", "decided"))

    @property
    def signature(self) -> str:
        """Version and rules."""
        return "checklist|version=1|share=yes/(yes+no)|needs=dsg|undecided=omit|interval=bootstrap95"

    def row(self, record: Json) -> Figures | Unscored:
        """Numbers of statements, of those decided and of those that hold, by kind and of all; the image's share."""
        answers = of_trace(analysis_from_dict(record["answer"]["analysis"]).trace)
        if not answers:
            return Unscored("no_checklist", "the detector checks no statements of the prompt")
        counts: Counter[str] = Counter()
        for kind, reply in answers:
            for part in (kind, "all"):
                counts[f"{part} asked"] += 1
                counts[f"{part} decided"] += reply in ("yes", "no")
                counts[f"{part} holds"] += reply == "yes"
        asked, decided, holds = (counts[f"all {what}"] for what in ("asked", "decided", "holds"))
        row: Figures = {f"{part} {what}": counts[f"{part} {what}"] for part in _PARTS for what in _COUNTED}
        row |= {"share": holds / decided if decided else None}
        return row | {"all_hold": float(holds == asked) if decided == asked else None}

    def figures(self, columns: Columns) -> Figures:
        """The shares of all kinds together, with the share of the images whose statements all hold."""
        found = _shares("all", columns)
        return found | (with_interval("all_hold", columns["all_hold"], UNIT) if "all_hold" in columns else {})

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """The same by kind of statement; kinds that no prompt has are left out."""
        return {kind: _shares(kind, columns) for kind in KINDS if columns[f"{kind} asked"].any()}


def _shares(part: str, columns: Columns) -> Figures:
    """Share that holds with its 95 % interval over the images, number of statements, and share decided."""
    asked, decided, holds = (columns[f"{part} {what}"] for what in _COUNTED)
    counted = {"statements": float(asked.sum()), "decided": float(decided.sum() / asked.sum())}
    return quotient("holds", holds, decided) | counted
