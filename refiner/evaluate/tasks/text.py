"""The task ``text``: which of the words that the prompts ask for can be read in the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unscored, quotient, with_interval
from refiner.files import Json
from refiner.lettering import SCRIPTS, Found, Kind, folded, of_steps, script_of, share_read
from refiner.metrics.edits import edit_share
from refiner.metrics.intervals import UNIT
from refiner.records import analysis_from_dict

_KINDS: Final = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Text(Task):
    """Word accuracy and normalised edit distance of what is read against the words that the prompts ask for.

    The categories are the scripts of the words (``refiner.lettering.script_of``).

    ``word_accuracy`` is the share of all wanted words that are read as wanted. ``edit_distance`` is the mean over the
    words of the Levenshtein distance divided by the longer of both words, 1 for a missing word. Words are compared as
    ``refiner.lettering.folded``. ``all_read`` is the share of the images whose words are all read.
    """

    plots = Plots(histograms=("word_accuracy",), worst="word_accuracy", higher_is_better=True, bars=("word_accuracy",))

    @property
    def signature(self) -> str:
        """Version and rules."""
        rules = "words=quoted|form=folded|distance=levenshtein/longer|missing=1|scripts=by_letters"
        return f"text|version=2|{rules}|interval=student95"

    def row(self, record: Json) -> Figures | Unscored:
        """Number of words, of each kind, sum of the edit distances, the same by script; and the image's own figures."""
        found = of_steps(analysis_from_dict(record["answer"]["analysis"]).trace)
        if not found:
            return Unscored("no_words", "the prompt asks for no words, or the detector reads none")
        row: Figures = {kind: sum(each.kind == kind for each in found) for kind in _KINDS}
        for script in SCRIPTS:
            own = [each for each in found if script_of(each.word) == script]
            row |= {f"{name} {script}": value for name, value in _sums(own).items()}
        share = share_read(found)
        return row | _sums(found) | {"word_accuracy": share, "all_read": float(share == 1)}

    def figures(self, columns: Columns) -> Figures:
        """The figures of all words together, with 95 % intervals over the images."""
        found = _shares(columns["read"], columns["distance"], columns["words"])
        found |= {kind: float(columns[kind].sum()) for kind in _KINDS}
        return found | with_interval("all_read", columns["all_read"], UNIT)

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Accuracy, edit distance and number of the words of each script; scripts that no prompt has are left out."""
        found = {}
        for script in SCRIPTS:
            read, distance, words = (columns[f"{name} {script}"] for name in ("read", "distance", "words"))
            if words.any():
                found[script] = _shares(read, distance, words)
        return found


def _sums(found: Sequence[Found]) -> Figures:
    distance = sum(edit_share(folded(each.read), folded(each.word)) for each in found)
    return {"words": len(found), "read": sum(each.kind == "read" for each in found), "distance": distance}


def _shares(read: NDArray[np.float64], distance: NDArray[np.float64], words: NDArray[np.float64]) -> Figures:
    """The figures of all words of some images together, with intervals over these images."""
    shares = quotient("word_accuracy", read, words) | quotient("edit_distance", distance, words)
    return {"words": float(words.sum())} | shares
