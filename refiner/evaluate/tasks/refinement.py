"""The task ``refinement``: images before and after."""

from __future__ import annotations

from dataclasses import dataclass

from refiner.evaluate.figures import Columns, Figures, Plots, Task, mean, with_interval
from refiner.files import Json
from refiner.metrics.intervals import ANY
from refiner.metrics.semap_scoring import SemapConfig, Similarity, score_image
from refiner.records import analysis_from_dict
from refiner.taxonomy import PERCEPTUAL


@dataclass(frozen=True, kw_only=True)
class Refinement(Task):
    """Before against after, for the last image and for the kept one; SemAP if true explanations are known.

    A sample without any image that was analysed has no figures. Burden is the sum of severity times confidence over
    the regions. PAR and the categories leave misalignments with the prompt out; number of flaws and burden do not. An
    image whose flaws are all unplaced has no PAR.
    """

    semap: SemapConfig
    encoder: str | None
    """Signature of the text encoder; None without one."""
    plots = Plots(
        histograms=("par_change", "hps_change"), worst="par_best", higher_is_better=False,
        scatters=(("hps_before", "hps_best"), ("par_before", "par_best"), ("burden_before", "burden_best")),
        bars=("before", "best"),
    )  # fmt: skip

    @property
    def signature(self) -> str:
        """Version and rules, and the signature of the encoder if there is one."""
        words = "" if self.encoder is None else f"|{self.semap.signature}|{self.encoder}"
        return f"refinement|version=1|prompt=original|rounds=before,last,best|interval=student95{words}"

    def row(self, record: Json) -> Figures:
        """Score, flaws, area, burden and SemAP of start, last and best image; changes from start to best."""
        row: Figures = {}
        answer = record["answer"]
        for when in ("before", "last", "best"):
            look = answer[when]
            analysis = analysis_from_dict(look["analysis"])
            row |= {f"hps_{when}": look["score"], f"par_{when}": analysis.perceptual.known_ratio}
            row |= {f"flaws_{when}": len(analysis.regions), f"burden_{when}": analysis.burden}
            if look["similarity"] is not None:
                scored = score_image(Similarity.from_dict(look["similarity"]), self.semap)
                row |= {f"semap_{when}": scored.semap, f"semf1_{when}": scored.semf1}
            for category in PERCEPTUAL:
                row[f"{category} {when}"] = sum(region.category is category for region in analysis.regions)
        for name in ("hps", "par", "flaws", "burden"):
            before, best = row[f"{name}_before"], row[f"{name}_best"]
            row[f"{name}_change"] = None if before is None or best is None else best - before
        row |= {"rounds": answer["rounds"], "accepted": answer["accepted"], "failed_attempts": answer["failed"]}
        return row | answer["calls"]

    def figures(self, columns: Columns) -> Figures:
        """Means; changes with intervals; shares of samples that got better and worse."""
        found: Figures = {}
        for name in ("hps", "par", "flaws", "burden", "semap", "semf1"):
            if f"{name}_before" not in columns:
                continue
            found |= {f"{name}_{when}": mean(columns[f"{name}_{when}"]) for when in ("before", "last", "best")}
            if f"{name}_change" in columns:
                found |= with_interval(
                    f"{name}_change", columns[f"{name}_change"], (-1.0, 1.0) if name == "par" else ANY
                )
        burden = columns["burden_change"]
        found |= {"better_share": float((burden < 0).mean()), "worse_share": float((burden > 0).mean())}
        return found | {
            name: mean(columns[name])
            for name in ("rounds", "accepted", "failed_attempts", "denoiser_rows", "detector_calls")
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Flaws per image by category, in start, last and best image."""
        return {
            str(category): {when: mean(columns[f"{category} {when}"]) for when in ("before", "last", "best")}
            for category in PERCEPTUAL
        }
