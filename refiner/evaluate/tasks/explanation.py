"""The task ``explanation``: a detector's explanations against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from refiner.data.anomreason import from_regions
from refiner.data.captions import caption_of
from refiner.data.samples import joined_text
from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unreadable, Unscored, true_flaws, with_interval
from refiner.evaluate.tasks.localization import region_row, region_signature
from refiner.files import Json
from refiner.metrics import classification, text
from refiner.metrics.boxes import RegionRule
from refiner.metrics.counts import Hits
from refiner.metrics.intervals import UNIT
from refiner.metrics.semap_scoring import SemapConfig, Similarity, score_image
from refiner.metrics.text import bleu_2, rouge_l
from refiner.records import analysis_from_dict
from refiner.types import Analysis

_MEANS: Final = ("semap", "semf1", "rouge_l", "bleu_2", "css", "accuracy", "region_iou")
_RANGES: Final = {"css": (-1.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Explanation(Task):
    """A detector's explanations against the true ones: SemAP and SemF1; ROUGE-L, BLEU-2 and CSS of flawed images.

    If the truth has a caption (SynthScars), the texts are whole answers in its format, as for LEGION's Table 3;
    otherwise those of all anomalies in order.

    With accuracy and region IoU, if verdicts and boxes are known, this is also FakeXplain's table. An answer that
    could not be read counts as an empty one: every true flaw is missed, and the verdict is wrong. Misalignments with
    the prompt are left out.
    """

    config: SemapConfig
    encoder: str
    """Signature of the text encoder."""
    sentences: str | None
    """Signature of the encoder for CSS; None without one."""
    threshold: float
    """An image counts as generated if its probability is above this."""
    region: RegionRule
    unreadable: Unreadable
    plots = Plots(histograms=("semap", "semf1"), worst="semf1", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Signatures of SemAP with its encoder, of the texts, the verdicts and the boxes."""
        words = f"rouge_l|version={text.VERSION}|words=rouge|beta=1;bleu_2|version={text.VERSION}|words=unicode"
        joined = "texts=captions,else phenomenon,reasoning of all anomalies in order|without truth=left out"
        verdicts = f"accuracy|version={classification.VERSION}|decision=score>{self.threshold:g}"
        parts = [f"{self.config.signature}|{self.encoder}", f"{words}|smoothing=method1", self.sentences]
        parts += [f"{joined}|unreadable={self.unreadable}", f"{verdicts}|unreadable={self.unreadable}"]
        return ";".join(part for part in [*parts, region_signature(self.region, self.unreadable)] if part)

    def row(self, record: Json) -> Figures | Unscored:
        """SemAP, SemF1 and counts by threshold; metrics of texts, verdict and boxes."""
        if record["answer"]["similarity"] is None:
            return Unscored("missing_truth", "the sample has no anomalies in words to compare with")
        found, truth = analysis_from_dict(record["answer"]["analysis"]).perceptual, record["truth"]
        row: Figures = {"css": record["answer"]["css"]}
        if truth["fake"] is not None and found.fake_probability is not None:
            row["accuracy"] = float((found.fake_probability > self.threshold) == truth["fake"])
        return row | self._compared(record, Similarity.from_dict(record["answer"]["similarity"]), found)

    def miss(self, record: Json) -> Figures | None:
        """The numbers of an empty answer with a wrong verdict."""
        anomalies = record["truth"]["anomalies"]
        if self.unreadable == "omit" or anomalies is None:
            return None
        nothing = np.zeros((0, len(anomalies)), dtype=np.float32)
        silence = Similarity(image=record["name"], phenomenon=nothing, reasoning=nothing, confidence=())
        row = self._compared(record, silence, None)
        row |= {"accuracy": 0.0} if record["truth"]["fake"] is not None else {}
        return row | ({"css": 0.0} if self.sentences and anomalies else {})

    def _compared(self, record: Json, similarity: Similarity, found: Analysis | None) -> Figures:
        truth, scored = record["truth"], score_image(similarity, self.config)
        regions = () if found is None else found.regions
        said, true = joined_text(from_regions(regions)), _true_text(truth["anomalies"])
        if true and truth.get("caption"):
            said, true = "" if found is None else caption_of(found), truth["caption"]
        row: Figures = {"semap": scored.semap, "semf1": scored.semf1}
        row |= {"rouge_l": rouge_l(said, true), "bleu_2": bleu_2(said, true)} if true else {}
        row |= region_row(regions, true_flaws(record), truth, self.region)
        row |= {"predictions": scored.predictions, "references": scored.references}
        for tau, counts in zip(self.config.thresholds, scored.by_threshold, strict=True):
            row |= {f"{name}@{tau:g}": value for name, value in asdict(counts).items()}
        return row

    def figures(self, columns: Columns) -> Figures:
        """Means over the images with intervals; counts and rates of all images together, by threshold."""
        names = [name for name in _MEANS if name in columns]
        found: Figures = {
            key: value
            for name in names
            for key, value in with_interval(name, columns[name], _RANGES.get(name, UNIT)).items()
        }
        for tau in self.config.thresholds:
            counts = Hits(**{name: int(columns[f"{name}@{tau:g}"].sum()) for name in ("tp", "fp", "fn")})
            for name in ("tp", "fp", "fn", "precision", "recall", "f1"):
                found[f"{name}@{tau:g}"] = getattr(counts, name)
        return found


def _true_text(entries: Sequence[Json]) -> str:
    """As ``joined_text``, of the anomalies in a record."""
    return " ".join(f"{entry['Observed Phenomenon']} {entry['Reasoning']}" for entry in entries)
