"""From records to figures: what is measured in each task of ``refiner evaluate``.

A task turns each record into a row of numbers, without any model, and the columns of all rows into the table's figures.
Columns are float64 with NaN where a sample has no such number; those without any number are left out. The order of the
rows is that of the data set, so that sums come out the same to the last bit however the records were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from refiner.data.anomreason import from_regions
from refiner.errors import ConfigError
from refiner.evaluate_figures import (
    Columns,
    Figures,
    Plots,
    Row,
    Task,
    Unreadable,
    Unscored,
    found_analysis,
    interval,
    mean,
    true_analysis,
    with_interval,
)  # fmt: skip
from refiner.evaluate_localization import Localization, region_row, region_signature
from refiner.evaluate_samples import joined_text
from refiner.metrics import classification, text
from refiner.metrics.boxes import RegionRule
from refiner.metrics.classification import BinaryCounts
from refiner.metrics.heatmaps import HeatmapConfig
from refiner.metrics.semap_scoring import Counts, SemapConfig, Similarity, score_image
from refiner.metrics.text import bleu_2, rouge_l
from refiner.runs import Json, analysis_from_dict
from refiner.taxonomy import Category
from refiner.types import Region

__all__ = [
    "TASKS", "Columns", "Detection", "Explanation", "Figures", "Localization", "Plots", "Realism", "Refinement", "Row",
    "Task", "Unscored", "build_task", "interval", "mean", "with_interval",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Generated or real: balanced accuracy, precision, recall and F1 as X-AIGD's AJ has them, and plain accuracy."""

    threshold: float
    """A probability above it says generated."""
    plots = Plots(histograms=("probability",), worst="margin", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Version, threshold and rules."""
        return f"aj|version={classification.VERSION}|decision=score>{self.threshold:g}|positive=fake|empty=0"

    def row(self, record: Json) -> Row | Unscored:
        """The truth, the probability of generated, and by how much it is on the right side."""
        fake, probability = record["truth"]["fake"], record["answer"]["analysis"]["fake_probability"]
        if fake is None:
            return Unscored("missing_truth", "the sample does not say whether it is generated")
        if probability is None:
            return Unscored("no_verdict", "the detector gives no probability of being generated")
        margin = probability - self.threshold
        return {"fake": float(fake), "probability": probability, "margin": margin if fake else -margin}

    def miss(self, record: Json) -> Row | None:
        """None: AJ is of verdicts that were given."""

    def figures(self, columns: Columns) -> Figures:
        """AJ."""
        fake, called = columns["fake"] == 1, columns["probability"] > self.threshold
        groups = {"tp": fake & called, "fp": ~fake & called, "tn": ~fake & ~called, "fn": fake & ~called}
        return BinaryCounts(**{name: int(group.sum()) for name, group in groups.items()}).document()

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """None."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the detector says against what is true: SemAP and SemF1; ROUGE-L, BLEU-2 and CSS of flawed ones.

    With accuracy and region IoU where verdicts and boxes are known, this is FakeXplain's table too. An answer that
    could not be read says nothing: whatever is true is missed, and the verdict is wrong.
    """

    config: SemapConfig
    encoder: str
    """Its signature."""
    sentences: str | None
    """That of the encoder for CSS; None without one."""
    threshold: float = 0.5
    """A probability above it says generated."""
    region: RegionRule = "union"
    unreadable: Unreadable = "miss"
    plots = Plots(histograms=("semap", "semf1"), worst="semf1", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Of SemAP, with the encoder's; of the texts, the verdicts and the boxes."""
        words = f"rouge_l|version={text.VERSION}|words=rouge|beta=1;bleu_2|version={text.VERSION}|words=unicode"
        joined = "texts=phenomenon,reasoning of all anomalies in order|without truth=left out"
        verdicts = f"accuracy|version={classification.VERSION}|decision=score>{self.threshold:g}"
        parts = [f"{self.config.signature}|{self.encoder}", f"{words}|smoothing=method1", self.sentences]
        parts += [f"{joined}|unreadable={self.unreadable}", f"{verdicts}|unreadable={self.unreadable}"]
        return ";".join(part for part in [*parts, region_signature(self.region, self.unreadable)] if part)

    def row(self, record: Json) -> Row | Unscored:
        """SemAP, SemF1 and counts by threshold; measures of texts, verdict and boxes."""
        if record["answer"]["similarity"] is None:
            return Unscored("missing_truth", "the sample has no anomalies in words to compare with")
        found, truth = found_analysis(record), record["truth"]
        row: Row = {"css": record["answer"]["css"]}
        if truth["fake"] is not None and found.fake_probability is not None:
            row["accuracy"] = float((found.fake_probability > self.threshold) == truth["fake"])
        return row | self._compared(record, Similarity.from_dict(record["answer"]["similarity"]), found.regions)

    def miss(self, record: Json) -> Row | None:
        """Those of nothing said and a wrong verdict."""
        anomalies = record["truth"]["anomalies"]
        if self.unreadable == "omit" or anomalies is None:
            return None
        nothing = np.zeros((0, len(anomalies)), dtype=np.float32)
        silence = Similarity(image=record["name"], phenomenon=nothing, reasoning=nothing, confidence=())
        row = self._compared(record, silence, ())
        row |= {"accuracy": 0.0} if record["truth"]["fake"] is not None else {}
        return row | ({"css": 0.0} if self.sentences and anomalies else {})

    def _compared(self, record: Json, similarity: Similarity, regions: Sequence[Region]) -> Row:
        truth, scored = record["truth"], score_image(similarity, self.config)
        said, true = joined_text(from_regions(regions)), _true_text(truth["anomalies"])
        row: Row = {"semap": scored.semap, "semf1": scored.semf1}
        row |= {"rouge_l": rouge_l(said, true).f, "bleu_2": bleu_2(said, true)} if true else {}
        row |= region_row(regions, true_analysis(record), truth, self.region)
        row |= {"predictions": scored.predictions, "references": scored.references}
        for tau, counts in zip(self.config.thresholds, scored.by_threshold, strict=True):
            row |= {f"{name}@{tau:g}": value for name, value in counts._asdict().items()}
        return row

    def figures(self, columns: Columns) -> Figures:
        """Macro means with intervals; and of all images together, by threshold."""
        names = [name for name in _MEANS if name in columns]
        found: Figures = {key: value for name in names for key, value in with_interval(name, columns[name]).items()}
        for tau in self.config.thresholds:
            counts = Counts(*(int(columns[f"{name}@{tau:g}"].sum()) for name in Counts._fields))
            found |= {f"{name}@{tau:g}": value for name, value in counts._asdict().items()}
            found |= {f"{name}@{tau:g}": getattr(counts, name) for name in ("precision", "recall", "f1")}
        return found

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """None."""
        return {}


_MEANS: Final = ("semap", "semf1", "rouge_l", "bleu_2", "css", "accuracy", "region_iou")


def _true_text(entries: Sequence[Json]) -> str:
    """As ``joined_text``, of anomalies on record."""
    return " ".join(f"{entry['Observed Phenomenon']} {entry['Reasoning']}" for entry in entries)


@dataclass(frozen=True, kw_only=True)
class Realism:
    """How real pictures look, by generator (group): anomalies, severity, area, and HPS where there are prompts."""

    plots = Plots(
        histograms=("score", "par", "intensity"), worst="intensity", higher_is_better=False, bars=("rate", "per_image")
    )

    @property
    def signature(self) -> str:
        """Version and rules."""
        return "realism|version=1|severity=0..1,1=worst|CAP=AF*MAI|MAI=mean_over_anomalies|AF=anomalies_per_image"

    def row(self, record: Json) -> Row | Unscored:
        """Anomalies, the sum of their severities, flawed area, score, and anomalies of each category."""
        row: Row = {"score": record["answer"]["score"]}
        if record["answer"]["analysis"] is None:
            return row
        analysis = found_analysis(record)
        row |= {"anomalies": len(analysis.regions), "par": analysis.artifact_ratio}
        row |= {"intensity": float(sum(region.severity for region in analysis.regions))}
        row |= {"fake_probability": analysis.fake_probability}
        for category in Category:
            row[f"n {category}"] = sum(region.category is category for region in analysis.regions)
        return row

    def miss(self, record: Json) -> Row | None:
        """None: how real the picture looks is not known."""

    def figures(self, columns: Columns) -> Figures:
        """Means with intervals; MAI, AF and CAP."""
        found = with_interval("HPS", columns["score"]) if "score" in columns else {}
        if "anomalies" not in columns:
            return found
        anomalies, intensity = columns["anomalies"].sum(), columns["intensity"].sum()
        return {
            **with_interval("CAP", columns["intensity"]),
            "MAI": float(intensity / anomalies) if anomalies else 0.0,
            **with_interval("AF", columns["anomalies"]),
            "AF_share": float((columns["anomalies"] > 0).mean()),
            **with_interval("PAR", columns["par"]),
            **({"fake_probability": mean(columns["fake_probability"])} if "fake_probability" in columns else {}),
            **found,
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Share of pictures with a flaw of the category, and flaws a picture."""
        if "anomalies" not in columns:
            return {}
        counts = {str(category): columns[f"n {category}"] for category in Category}
        return {
            name: {"rate": float((values > 0).mean()), "per_image": float(values.mean())}
            for name, values in counts.items()
        }


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Before against after, of the last round and of the one that was kept; SemAP where there is truth in words."""

    semap: SemapConfig
    encoder: str | None
    """Its signature; None without an encoder."""
    plots = Plots(
        histograms=("par_change", "hps_change"), worst="par_best", higher_is_better=False,
        scatters=(("hps_before", "hps_best"), ("par_before", "par_best"), ("burden_before", "burden_best")),
        bars=("before", "best"),
    )  # fmt: skip

    @property
    def signature(self) -> str:
        """Version and rules; with the encoder's where there is one."""
        words = "" if self.encoder is None else f"|{self.semap.signature}|{self.encoder}"
        return f"refinement|version=1|prompt=original|rounds=before,last,best|interval=bootstrap95{words}"

    def row(self, record: Json) -> Row | Unscored:
        """Score, flaws, area, burden and SemAP before, at last and of the best; changes from before to best."""
        row: Row = {}
        answer = record["answer"]
        for when in ("before", "last", "best"):
            look = answer[when]
            analysis = analysis_from_dict(look["analysis"])
            row |= {f"hps_{when}": look["score"], f"par_{when}": analysis.artifact_ratio}
            row |= {f"flaws_{when}": len(analysis.regions), f"burden_{when}": analysis.burden}
            if look["similarity"] is not None:
                scored = score_image(Similarity.from_dict(look["similarity"]), self.semap)
                row |= {f"semap_{when}": scored.semap, f"semf1_{when}": scored.semf1}
            for category in Category:
                row[f"{category} {when}"] = sum(region.category is category for region in analysis.regions)
        for name in ("hps", "par", "flaws", "burden"):
            before, best = row[f"{name}_before"], row[f"{name}_best"]
            row[f"{name}_change"] = None if before is None or best is None else best - before
        row |= {name: answer[name] for name in ("rounds", "accepted", "failed")}
        return row | answer["calls"]

    def miss(self, record: Json) -> Row | None:
        """None: there is no picture that was looked at."""

    def figures(self, columns: Columns) -> Figures:
        """Means; changes with intervals; the shares of samples that got better and worse."""
        found: Figures = {}
        for name in ("hps", "par", "flaws", "burden", "semap", "semf1"):
            if f"{name}_before" not in columns:
                continue
            found |= {f"{name}_{when}": mean(columns[f"{name}_{when}"]) for when in ("before", "last", "best")}
            if f"{name}_change" in columns:
                found |= with_interval(f"{name}_change", columns[f"{name}_change"])
        burden = columns["burden_change"]
        found |= {"better_share": float((burden < 0).mean()), "worse_share": float((burden > 0).mean())}
        return found | {
            name: mean(columns[name]) for name in ("rounds", "accepted", "failed", "denoiser_rows", "detector_calls")
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Flaws a picture of each category, before, at last and of the best."""
        return {
            str(category): {when: mean(columns[f"{category} {when}"]) for when in ("before", "last", "best")}
            for category in Category
        }


_BUILDERS: Final[Mapping[str, Callable[[Json, Json], Task]]] = MappingProxyType(
    {
        "detection": lambda _system, scoring: Detection(threshold=scoring["threshold"]),
        "localization": lambda _system, scoring: Localization(
            heatmap=HeatmapConfig(stretch=scoring.get("stretch", "minmax")),
            region=_region(scoring),
            unreadable=_unreadable(scoring),
        ),
        "explanation": lambda system, scoring: Explanation(
            config=_semap(scoring),
            encoder=system["encoder"],
            sentences=system["sentences"],
            threshold=scoring.get("threshold", 0.5),
            region=_region(scoring),
            unreadable=_unreadable(scoring),
        ),
        "realism": lambda _system, _scoring: Realism(),
        "refinement": lambda system, scoring: Refinement(semap=_semap(scoring), encoder=system["encoder"]),
    }
)

TASKS: Final = tuple(_BUILDERS)


def _semap(scoring: Json) -> SemapConfig:
    return SemapConfig(view=scoring["view"])


def _region(scoring: Json) -> RegionRule:
    rule: RegionRule = scoring.get("region", "union")
    return rule


def _unreadable(scoring: Json) -> Unreadable:
    rule: Unreadable = scoring.get("unreadable", "miss")
    return rule


def build_task(name: str, system: Json, scoring: Json) -> Task:
    """The task of a run, by the parts ``system`` and ``scoring`` of its ``run.json``.

    Raises:
        ConfigError: there is no such task, or a setting is out of its range.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"Expected a task of {', '.join(TASKS)}; got {name!r}: name one of these.")
    return _BUILDERS[name](system, scoring)
