"""From records to figures: what is measured in each task of ``refiner evaluate``.

A task turns each record into a row of numbers, without any model, and the columns of all rows into the table's figures.
Columns are float64 with NaN where a sample has no such number; those without any number are left out. The order of the
rows is that of the data set, so that sums come out the same to the last bit however the records were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.data.anomreason import from_regions
from refiner.errors import ConfigError
from refiner.evaluate_data import joined_text
from refiner.masks import union
from refiner.metrics import classification, text
from refiner.metrics.classification import BinaryCounts
from refiner.metrics.localization import VERSION, PixelCounts, PixelTotals, by_artifact_ratio, count_pixels
from refiner.metrics.semap_scoring import Counts, SemapConfig, Similarity, score_image
from refiner.metrics.text import bleu_2, rouge_l
from refiner.runs import Json, analysis_from_dict
from refiner.taxonomy import Category, XaigdCategory
from refiner.types import Analysis, Mask

Columns = Mapping[str, NDArray[np.float64]]
Row = dict[str, float | None]
Figures = dict[str, float | None]


class Unscored(NamedTuple):
    """Why a record has no figures."""

    kind: str
    detail: str


class Plots(NamedTuple):
    """What the report draws; by columns."""

    histograms: tuple[str, ...]
    worst: str
    """The samples with the worst of these are shown as pictures."""
    higher_is_better: bool
    scatters: tuple[tuple[str, str], ...] = ()
    bars: tuple[str, ...] = ()
    """By figures of the categories."""


class Task(Protocol):
    """One kind of evaluation."""

    plots: Plots

    @property
    def signature(self) -> str:
        """All that the figures depend on beside the records."""
        ...

    def row(self, record: Json) -> Row | Unscored:
        """The figures of one sample."""
        ...

    def figures(self, columns: Columns) -> Figures:
        """The figures of many samples together."""
        ...

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """The same by category of flaw; empty where the task knows none."""
        ...


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the numbers that are there; None where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def interval(values: NDArray[np.float64], draws: int = 1000) -> tuple[float | None, float | None]:
    """The 95 % bootstrap interval of the mean, from a fixed seed; None where there are fewer than two numbers."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None, None
    rng = np.random.default_rng(0)
    means = [known[rng.integers(len(known), size=len(known))].mean() for _ in range(draws)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def with_interval(name: str, values: NDArray[np.float64]) -> Figures:
    """A mean with its interval."""
    low, high = interval(values)
    return {name: mean(values), f"{name}_low": low, f"{name}_high": high}


def _analysis(record: Json) -> Analysis:
    return analysis_from_dict(record["answer"]["analysis"])


_COUNTS = tuple(field.name for field in fields(PixelCounts))
_SUMS = tuple(field.name for field in fields(PixelTotals) if field.name != "counts")


def _pixel_row(counts: PixelCounts) -> Row:
    totals = PixelTotals.of(counts)
    return asdict(counts) | {name: float(getattr(totals, name)) for name in _SUMS}


def _pixel_totals(columns: Columns, chosen: NDArray[np.bool_]) -> PixelTotals:
    counts = PixelCounts(**{name: int(columns[name][chosen].sum()) for name in _COUNTS})
    sums: dict[str, Any] = {name: float(columns[name][chosen].sum()) for name in _SUMS}
    sums |= {name: int(sums[name]) for name in ("images", "silent")}
    return PixelTotals(counts=counts, **sums)


@dataclass(frozen=True, kw_only=True)
class Localization:
    """Masks against masks: LEGION's mIoU and F1, X-AIGD's PAD, PAR > 0 against PAR = 0, and by X-AIGD category."""

    plots = Plots(
        histograms=("iou", "f1", "par"), worst="f1", higher_is_better=True, scatters=(("par", "predicted_par"),),
        bars=("IoU", "PixF1"),
    )  # fmt: skip

    @property
    def signature(self) -> str:
        """Version and rules."""
        return f"localization|version={VERSION}|average=per_image,pooled|empty=1,0|categories=x-aigd"

    def row(self, record: Json) -> Row | Unscored:
        """Pixel counts of all flaws together and of each category."""
        if record["truth"]["analysis"] is None:
            return Unscored("missing_truth", "the sample has no mask to compare with")
        found, truth = _analysis(record), analysis_from_dict(record["truth"]["analysis"])
        row = _pixel_row(count_pixels(found.mask, truth.mask))
        seen = {region.category.xaigd for region in (*found.regions, *truth.regions)}
        for category in XaigdCategory if record["truth"]["categorised"] else ():
            counts = PixelCounts(tn=truth.size.height * truth.size.width)
            if category in seen:
                counts = count_pixels(_of_category(found, category), _of_category(truth, category))
            row |= {f"{name} {category}": getattr(counts, name) for name in _COUNTS}
        return row

    def figures(self, columns: Columns) -> Figures:
        """Per image and pooled; and flagged shares by PAR."""
        flawed = columns["par"] > 0
        totals = _pixel_totals(columns, np.ones_like(flawed))
        legion = totals.legion()
        groups = by_artifact_ratio(_pixel_totals(columns, flawed), _pixel_totals(columns, ~flawed))
        return {
            "miou": legion["per_image"]["miou"],
            "f1": legion["per_image"]["f1"],
            "miou_pooled": legion["pooled"]["miou"],
            "f1_pooled": legion["pooled"]["f1"],
            **totals.pad(),
            **{f"{name}_per_image": value for name, value in totals.pad_per_image().items()},
            **{f"{group}_{name}": row[name] for group, row in groups.items() for name in ("images", "flagged")},
            **{f"{group}_predicted_par": row["predicted_par"] for group, row in groups.items()},
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Pooled PAD figures by category."""
        found: dict[str, Figures] = {}
        for category in XaigdCategory:
            if f"tp {category}" in columns:
                sums = {name: int(np.nansum(columns[f"{name} {category}"])) for name in _COUNTS}
                found[str(category)] = dict(PixelCounts(**sums).pad())
        return found


def _of_category(analysis: Analysis, category: XaigdCategory) -> Mask:
    regions = (region for region in analysis.regions if region.category.xaigd is category)
    return union((region.pixels(analysis.size) for region in regions), analysis.size)


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
    """What the detector says against what is true: SemAP and SemF1; ROUGE-L, BLEU-2 and CSS of flawed ones."""

    config: SemapConfig
    encoder: str
    """Its signature."""
    sentences: str | None
    """That of the encoder for CSS; None without one."""
    plots = Plots(histograms=("semap", "semf1"), worst="semf1", higher_is_better=True)

    @property
    def signature(self) -> str:
        """Of SemAP, with the encoder's."""
        words = f"rouge_l|version={text.VERSION}|words=rouge|beta=1;bleu_2|version={text.VERSION}|words=unicode"
        joined = "texts=phenomenon,reasoning of all anomalies in order|without truth=left out"
        parts = [f"{self.config.signature}|{self.encoder}", f"{words}|smoothing=method1", self.sentences, joined]
        return ";".join(part for part in parts if part)

    def row(self, record: Json) -> Row | Unscored:
        """SemAP, SemF1 and counts by threshold."""
        if record["answer"]["similarity"] is None:
            return Unscored("missing_truth", "the sample has no anomalies in words to compare with")
        scored = score_image(Similarity.from_dict(record["answer"]["similarity"]), self.config)
        said, true = joined_text(from_regions(_analysis(record).regions)), _true_text(record["truth"]["anomalies"])
        row: Row = {"semap": scored.semap, "semf1": scored.semf1, "css": record["answer"]["css"]}
        row |= {"rouge_l": rouge_l(said, true).f, "bleu_2": bleu_2(said, true)} if true else {}
        row |= {"predictions": scored.predictions, "references": scored.references}
        for tau, counts in zip(self.config.thresholds, scored.by_threshold, strict=True):
            row |= {f"{name}@{tau:g}": value for name, value in counts._asdict().items()}
        return row

    def figures(self, columns: Columns) -> Figures:
        """Macro means with intervals; and of all images together, by threshold."""
        names = [name for name in ("semap", "semf1", "rouge_l", "bleu_2", "css") if name in columns]
        found: Figures = {key: value for name in names for key, value in with_interval(name, columns[name]).items()}
        for tau in self.config.thresholds:
            counts = Counts(*(int(columns[f"{name}@{tau:g}"].sum()) for name in Counts._fields))
            found |= {f"{name}@{tau:g}": value for name, value in counts._asdict().items()}
            found |= {f"{name}@{tau:g}": getattr(counts, name) for name in ("precision", "recall", "f1")}
        return found

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """None."""
        return {}


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
        analysis = _analysis(record)
        row |= {"anomalies": len(analysis.regions), "par": analysis.artifact_ratio}
        row |= {"intensity": float(sum(region.severity for region in analysis.regions))}
        row |= {"fake_probability": analysis.fake_probability}
        for category in Category:
            row[f"n {category}"] = sum(region.category is category for region in analysis.regions)
        return row

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
        "localization": lambda _system, _scoring: Localization(),
        "explanation": lambda system, scoring: Explanation(
            config=_semap(scoring), encoder=system["encoder"], sentences=system["sentences"]
        ),
        "realism": lambda _system, _scoring: Realism(),
        "refinement": lambda system, scoring: Refinement(semap=_semap(scoring), encoder=system["encoder"]),
    }
)

TASKS: Final = tuple(_BUILDERS)


def _semap(scoring: Json) -> SemapConfig:
    return SemapConfig(view=scoring["view"])


def build_task(name: str, system: Json, scoring: Json) -> Task:
    """The task of a run, by the parts ``system`` and ``scoring`` of its ``run.json``.

    Raises:
        ConfigError: there is no such task, or a setting is out of its range.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"Expected a task of {', '.join(TASKS)}; got {name!r}: name one of these.")
    return _BUILDERS[name](system, scoring)
