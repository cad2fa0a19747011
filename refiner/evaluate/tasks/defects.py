"""The task ``defects``: SDG-Eval, found defects against true ones by type, box, description and importance."""

from __future__ import annotations

from dataclasses import dataclass

from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unreadable, Unscored, quotient, true_analysis
from refiner.files import Json
from refiner.metrics.intervals import UNIT, Range
from refiner.metrics.sdg import TYPES, DefectType, SdgConfig, compare_defects, of_type
from refiner.records import analysis_from_dict
from refiner.types import Analysis

_PART, _WHOLE = " sum", " count"


@dataclass(frozen=True, kw_only=True)
class Defects(Task):
    """SDG-Eval (see ``refiner.metrics.sdg``) for artifacts, and for misalignments if the truth lists these.

    Boxes and descriptions count only if the truth separates the flaws, and importance only if it gives it. An answer
    that could not be read misses all defects of its image, and calls no image clean. A figure without anything to
    count is left out.
    """

    config: SdgConfig
    descriptions: str | None
    """Signature of the sentence encoder for DescCos; None without one."""
    unreadable: Unreadable
    plots = Plots(histograms=("box_f1",), worst="box_f1", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Signature of the metric, and of the encoder if there is one."""
        parts = [f"{self.config.signature}|unreadable={self.unreadable}", self.descriptions]
        return ";".join(part for part in parts if part)

    def row(self, record: Json) -> Figures | Unscored:
        """Sum and count of each figure, by type; and BoxF1 of the image at the higher IoU, of both types together."""
        truth = true_analysis(record)
        if truth is None:
            return Unscored("missing_truth", "the sample does not say which defects there are")
        found = analysis_from_dict(record["answer"]["analysis"])
        return self._compared(found, truth, record["truth"], record["answer"].get("descriptions"))

    def miss(self, record: Json) -> Figures | None:
        """The numbers of an answer that finds nothing; but no image counts as called clean."""
        truth = true_analysis(record)
        if self.unreadable == "omit" or truth is None:
            return None
        row = self._compared(Analysis(size=truth.size, detector=""), truth, record["truth"], None)
        return row | {name: 0.0 for name in row if name.startswith("ClnAcc") and name.endswith(_PART)}

    def _compared(self, found: Analysis, truth: Analysis, facts: Json, cosines: Json | None) -> Figures:
        row: Figures = {}
        for kind in _types(facts):
            tallies = compare_defects(
                of_type(found, kind),
                of_type(truth, kind),
                truth.size,
                self.config,
                boxes=bool(facts.get("itemised", facts["categorised"])),
                importance=facts.get("weighed", False),
                cosines=None if cosines is None else cosines[kind],
            )
            for name, tally in tallies.items():
                row |= {f"{name}_{kind}{_PART}": tally.part, f"{name}_{kind}{_WHOLE}": tally.whole}
        matched, boxes = ([row.get(f"BoxF1@0.5_{kind}{end}") or 0.0 for kind in TYPES] for end in (_PART, _WHOLE))
        return row | {"box_f1": sum(matched) / sum(boxes) if sum(boxes) else None}

    def figures(self, columns: Columns) -> Figures:
        """Each figure of each type with its interval, in the order of the paper's Table 2."""
        found: Figures = {}
        for name in columns:
            if name.endswith(_PART):
                figure = name.removesuffix(_PART)
                found |= _known(quotient(figure, columns[name], columns[f"{figure}{_WHOLE}"], _range(figure)))
        return found


def _types(facts: Json) -> tuple[DefectType, ...]:
    """The types of defects that the truth lists."""
    return TYPES if facts.get("misalignments") else TYPES[:1]


def _range(figure: str) -> Range:
    """A cosine can be negative, all others are shares."""
    return (-1.0, 1.0) if figure.startswith("DescCos") else UNIT


def _known(figures: Figures) -> Figures:
    """Empty if the first figure is not known."""
    return {} if next(iter(figures.values())) is None else figures
