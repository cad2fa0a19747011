"""The task ``text``: which of the words that the prompts ask for can be read in the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unscored, quotient, with_interval
from refiner.files import Json
from refiner.lettering import Kind, folded, of_steps, share_read
from refiner.metrics.edits import edit_share
from refiner.metrics.intervals import UNIT
from refiner.records import analysis_from_dict

_KINDS: Final = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Text(Task):
    """Word accuracy and normalised edit distance of what is read against the words that the prompts ask for.

    ``word_accuracy`` is the share of all wanted words that are read as wanted. ``edit_distance`` is the mean over the
    words of the Levenshtein distance divided by the longer of both words, 1 for a missing word. Words are compared as
    ``refiner.lettering.folded``. ``all_read`` is the share of the images whose words are all read.
    """

    plots = Plots(histograms=("word_accuracy",), worst="word_accuracy", higher_is_better=True, bars=("word_accuracy",))

    @property
    def signature(self) -> str:
        """Version and rules."""
        return "text|version=2|words=quoted|form=folded|distance=levenshtein/longer|missing=1|interval=student95"

    def row(self, record: Json) -> Figures | Unscored:
        """Number of words, of each kind, sum of the edit distances; and the image's own figures."""
        found = of_steps(analysis_from_dict(record["answer"]["analysis"]).trace)
        if not found:
            return Unscored("no_words", "the prompt asks for no words, or the detector reads none")
        row: Figures = {kind: sum(each.kind == kind for each in found) for kind in _KINDS}
        distance = sum(edit_share(folded(each.read), folded(each.word)) for each in found)
        share = share_read(found)
        return row | {"words": len(found), "distance": distance, "word_accuracy": share, "all_read": float(share == 1)}

    def figures(self, columns: Columns) -> Figures:
        """The figures of all words together, with 95 % intervals over the images."""
        words = columns["words"]
        found = quotient("word_accuracy", columns["read"], words) | quotient(
            "edit_distance", columns["distance"], words
        )
        found |= {kind: float(columns[kind].sum()) for kind in _KINDS}
        return found | {"words": float(words.sum())} | with_interval("all_read", columns["all_read"], UNIT)
