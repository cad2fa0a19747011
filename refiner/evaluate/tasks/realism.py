"""The task ``realism``: how real images look, by generator."""

from __future__ import annotations

from dataclasses import dataclass

from refiner.evaluate.figures import Columns, Figures, Plots, Task, mean, with_interval
from refiner.files import Json
from refiner.metrics.intervals import ANY, POSITIVE, UNIT
from refiner.records import analysis_from_dict
from refiner.taxonomy import PERCEPTUAL


@dataclass(frozen=True, kw_only=True)
class Realism(Task):
    """How real images look, by generator (group): anomalies, severity, area, and HPS if there are prompts.

    An answer that could not be read has no figures. An image whose flaws are all unplaced has no area. Misalignments
    with the prompt are left out.
    """

    plots = Plots(
        histograms=("score", "par", "intensity"), worst="intensity", higher_is_better=False, bars=("rate", "per_image")
    )

    @property
    def signature(self) -> str:
        """Version and rules."""
        return "realism|version=1|severity=0..1,1=worst|CAP=AF*MAI|MAI=mean_over_anomalies|AF=anomalies_per_image"

    def row(self, record: Json) -> Figures:
        """Number of anomalies, sum of their severities, flawed area, score, and anomalies by category."""
        row: Figures = {"score": record["answer"]["score"]}
        if record["answer"]["analysis"] is None:
            return row
        analysis = analysis_from_dict(record["answer"]["analysis"]).perceptual
        row |= {"anomalies": len(analysis.regions), "par": analysis.known_ratio}
        row |= {"intensity": float(sum(region.severity for region in analysis.regions))}
        row |= {"fake_probability": analysis.fake_probability}
        for category in PERCEPTUAL:
            row[f"n {category}"] = sum(region.category is category for region in analysis.regions)
        return row

    def figures(self, columns: Columns) -> Figures:
        """Means with intervals; MAI, AF and CAP."""
        found = with_interval("HPS", columns["score"], ANY) if "score" in columns else {}
        if "anomalies" not in columns:
            return found
        anomalies, intensity = columns["anomalies"].sum(), columns["intensity"].sum()
        return {
            **with_interval("CAP", columns["intensity"], POSITIVE),
            "MAI": float(intensity / anomalies) if anomalies else 0.0,
            **with_interval("AF", columns["anomalies"], POSITIVE),
            "AF_share": float((columns["anomalies"] > 0).mean()),
            **(with_interval("PAR", columns["par"], UNIT) if "par" in columns else {}),
            **({"fake_probability": mean(columns["fake_probability"])} if "fake_probability" in columns else {}),
            **found,
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Share of images with a flaw of the category, and flaws per image."""
        if "anomalies" not in columns:
            return {}
        counts = {str(category): columns[f"n {category}"] for category in PERCEPTUAL}
        return {
            name: {"rate": float((values > 0).mean()), "per_image": float(values.mean())}
            for name, values in counts.items()
        }
