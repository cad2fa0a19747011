"""The task ``localization``: found flaws against true ones, by masks, boxes and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refiner.evaluate.figures import Columns, Figures, Plots, Task, Unreadable, Unscored, true_flaws, with_interval
from refiner.evaluate.tasks.pixels import COUNTS, heatmap_figures, heatmap_row, pixel_row, pixel_totals
from refiner.files import Json
from refiner.masks import union
from refiner.metrics.boxes import VERSION as BOXES_VERSION
from refiner.metrics.boxes import RegionRule, region_iou
from refiner.metrics.heatmaps import HeatmapConfig
from refiner.metrics.intervals import UNIT
from refiner.metrics.localization import VERSION, PixelCounts, by_artifact_ratio, count_pixels
from refiner.records import analysis_from_dict
from refiner.taxonomy import XaigdCategory
from refiner.types import Analysis, Mask, Region


def region_row(found: Sequence[Region], truth: Analysis | None, facts: Json, rule: RegionRule) -> Figures:
    """FakeXplain's region IoU of the boxes; empty if the truth has none.

    Args:
        found: regions of the detector.
        truth: the true regions; None if they are not known.
        facts: ``truth`` of the record, which says whether the true flaws have a box each.
        rule: see ``refiner.metrics.boxes``.
    """
    if truth is None or not truth.regions or not facts.get("itemised", facts["categorised"]):
        return {}
    ours, theirs = ([region.box for region in regions if region.box] for regions in (found, truth.regions))
    return {"region_iou": region_iou(ours, theirs, rule)} if theirs else {}


def region_signature(rule: RegionRule, unreadable: Unreadable) -> str:
    """Signature of the figure of ``region_row``."""
    images = f"average=per_image|images=with true boxes|empty=0|unreadable={unreadable}"
    return f"region-iou|version={BOXES_VERSION}|region={rule}|{images}"


@dataclass(frozen=True, kw_only=True)
class Localization(Task):
    """Masks against masks: LEGION's mIoU and F1, X-AIGD's PAD, PAR > 0 against PAR = 0, and by X-AIGD category.

    Also FakeXplain's region IoU if the truth has boxes, and X-AIGD's figures of heat maps if the detector gives any.
    An answer that could not be read counts as an empty mask if the image has flaws, as a missing prediction does for
    X-AIGD and FakeXplain. If the image has none, it has no figures, because nobody found it clean. Misalignments with
    the prompt are left out on both sides.
    """

    heatmap: HeatmapConfig
    region: RegionRule
    unreadable: Unreadable
    plots = Plots(
        histograms=("iou", "f1", "par", "region_iou", "heatmap_iou"), worst="f1", higher_is_better=True,
        scatters=(("par", "predicted_par"),), bars=("IoU", "PixF1"),
    )  # fmt: skip

    @property
    def signature(self) -> str:
        """Version and rules, also those of boxes and heat maps."""
        masks = f"localization|version={VERSION}|average=per_image,pooled|empty=1,0|categories=x-aigd"
        regions = region_signature(self.region, self.unreadable)
        return f"{masks}|unreadable={self.unreadable};{regions};{self.heatmap.signature}"

    def row(self, record: Json) -> Figures | Unscored:
        """Pixel counts of all flaws together, of each category and of the heat map; region IoU."""
        truth = true_flaws(record)
        if truth is None:
            return Unscored("missing_truth", "the sample has no mask to compare with")
        if truth.known_ratio is None:
            return Unscored("unplaced_truth", "the place of no true flaw is known")
        return self._compared(analysis_from_dict(record["answer"]["analysis"]).perceptual, truth, record["truth"])

    def miss(self, record: Json) -> Figures | None:
        """The numbers of an empty mask, if the image has a flaw."""
        truth = true_flaws(record)
        if self.unreadable == "omit" or truth is None or not truth.known_ratio:
            return None
        return self._compared(Analysis(size=truth.size, detector=""), truth, record["truth"])

    def _compared(self, found: Analysis, truth: Analysis, facts: Json) -> Figures:
        row = pixel_row(count_pixels(found.mask, truth.mask))
        row |= region_row(found.regions, truth, facts, self.region)
        row |= heatmap_row(found, truth.mask, self.heatmap)
        seen = {region.category.xaigd for region in (*found.regions, *truth.regions)}
        for category in XaigdCategory if facts["categorised"] else ():
            counts = PixelCounts(tn=truth.size.height * truth.size.width)
            if category in seen:
                counts = count_pixels(_of_category(found, category), _of_category(truth, category))
            row |= {f"{name} {category}": getattr(counts, name) for name in COUNTS}
        return row

    def figures(self, columns: Columns) -> Figures:
        """Per image and pooled; share of flagged images by PAR; region IoU; and the figures of heat maps."""
        flawed = columns["par"] > 0
        totals = pixel_totals(columns, np.ones_like(flawed))
        legion = totals.legion()
        groups = by_artifact_ratio(pixel_totals(columns, flawed), pixel_totals(columns, ~flawed))
        return {
            "miou": legion["per_image"]["miou"],
            "f1": legion["per_image"]["f1"],
            "miou_pooled": legion["pooled"]["miou"],
            "f1_pooled": legion["pooled"]["f1"],
            **totals.pad(),
            **{f"{name}_per_image": value for name, value in totals.pad_per_image().items()},
            **{f"{group}_{name}": row[name] for group, row in groups.items() for name in ("images", "flagged")},
            **{f"{group}_predicted_par": row["predicted_par"] for group, row in groups.items()},
            **(with_interval("region_iou", columns["region_iou"], UNIT) if "region_iou" in columns else {}),
            **heatmap_figures(columns),
        }

    def categories(self, columns: Columns) -> dict[str, Figures]:
        """Pooled PAD figures by category."""
        found: dict[str, Figures] = {}
        for category in XaigdCategory:
            if f"tp {category}" in columns:
                sums = {name: int(np.nansum(columns[f"{name} {category}"])) for name in COUNTS}
                found[str(category)] = dict(PixelCounts(**sums).pad())
        return found


def _of_category(analysis: Analysis, category: XaigdCategory) -> Mask:
    regions = (region for region in analysis.regions if region.category.xaigd is category)
    return union((region.pixels(analysis.size) for region in regions), analysis.size)
