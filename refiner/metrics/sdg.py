"""SDG-Eval: defects with a type, a box, a description and an importance (SDG, arXiv 2606.06113, Appendix C).

Every figure is for one type of defect, artifact or misalignment, and is a quotient of two sums over the images:

- DetTypeF1: F1 of whether an image has the type (equation 7), which is 2 TP / (images that have it + images said to).
- ClnAcc: share of the images without the type that are said to be without it (equation 8).
- BoxF1@t: F1 of the matched boxes with an IoU of at least t (equation 9).
- DescCos@0.1: mean cosine of the descriptions of the pairs with an IoU of at least 0.1 (equation 10).
- ImpAcc@0.1: mean of 1 - |difference of importance| / 100 of the same pairs (equation 10).
- ImpBucket@0.1: share of the same pairs whose importances lie in the same of three ranges. The authors' README defines
  ImpAcc so, without the bounds. Ours join the paper's five tiers: below 40, 40 to 69, and 70 or more.

The paper matches boxes of one type one to one by the Hungarian method. The cost is 1 - DIoU in thousandths of the
sides (authors' README; the paper's section 3.2 names IoU). The authors' released script matches greedily instead:
``matching="greedy"``. We leave out a pair whose true description is blank, and give 0 to a blank prediction; the
paper names neither case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

if TYPE_CHECKING:
    from refiner.metrics.css import SentenceEncoder

DefectType = Literal["artifact", "misalignment"]
Matching = Literal["hungarian", "greedy"]
Floats = NDArray[np.float64]
Cosines = Sequence[Sequence[float]]
"""A row for each predicted defect, a column for each true one."""

VERSION = 1
"""Increases when the same input can give other numbers."""
TYPES: Final[tuple[DefectType, ...]] = get_args(DefectType)
THRESHOLDS: Final = (0.1, 0.5)
"""The IoUs of BoxF1; DescCos and ImpAcc use the first."""
FULL: Final = 1000
"""Each side of an image in the unit of the boxes, and ten times the full importance."""
MAX_TOKENS: Final = 256
"""Tokens that the authors' encoder, Qwen3-Embedding-0.6B, reads of a description."""
_BOUNDS: Final = (40, 70)
"""Where the second and the third range of importance begin."""


class Tally(NamedTuple):
    """What one image adds to a figure, which is the quotient of the two sums."""

    part: float
    whole: float


class Pair(NamedTuple):
    """A predicted and a true defect that were matched, by their numbers."""

    found: int
    true: int
    iou: float


@dataclass(frozen=True, kw_only=True)
class SdgConfig:
    """What is counted.

    Raises:
        ConfigError: a setting is unknown.
    """

    matching: Matching = "hungarian"
    """``greedy`` takes the pair with the largest IoU first, as the authors' released script does."""

    def __post_init__(self) -> None:
        if self.matching not in get_args(Matching):
            known = " or ".join(get_args(Matching))
            raise ConfigError(f"Expected a matching of {known}, got {self.matching!r}: name one of these.")

    @property
    def signature(self) -> str:
        """Every choice; figures with equal signatures are comparable."""
        costs = {"hungarian": "hungarian(1-DIoU)", "greedy": "greedy(IoU)"}
        return (
            f"sdg-eval|version={VERSION}|matching={costs[self.matching]},by_type|boxes=thousandths_of_sides"
            f"|iou>={','.join(map(str, THRESHOLDS))}|average=pooled|unplaced=in_DetTypeF1_and_ClnAcc_only"
            f"|ImpAcc=1-abs/100,severity*100|ImpBucket=<{_BOUNDS[0]},<{_BOUNDS[1]},rest:bounds_unpublished"
            "|DescCos=explanations,blank_prediction=0,blank_truth=left_out:unpublished"
        )


def type_of(region: Region) -> DefectType:
    """The type of a region: all perceptual flaws are artifacts."""
    return "misalignment" if region.category is Category.MISALIGNMENT else "artifact"


def of_type(analysis: Analysis, kind: DefectType) -> list[Region]:
    """The regions of one type, in order."""
    return [region for region in analysis.regions if type_of(region) == kind]


def overlaps(found: Floats, true: Floats) -> tuple[Floats, Floats]:
    """IoU and DIoU of all pairs of boxes.

    DIoU is IoU minus the squared distance of the centres over the squared diagonal of the smallest box around both
    (Zheng et al., AAAI 2020).

    Args:
        found: (N, 4), boxes (x0, y0, x1, y1) with an area.
        true: (M, 4), in the same unit.

    Returns:
        Two arrays (N, M): in [0, 1] and in (-1, 1].
    """
    first, second = found[:, None], true[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    inside = np.clip(sides, 0, None).prod(axis=2)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (first, second)]
    iou: Floats = inside / (areas[0] + areas[1] - inside)
    around = np.maximum(first[..., 2:], second[..., 2:]) - np.minimum(first[..., :2], second[..., :2])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    return iou, iou - (apart**2).sum(axis=2) / (around**2).sum(axis=2)


def match_boxes(found: Floats, true: Floats, threshold: float, matching: Matching = "hungarian") -> list[Pair]:
    """Match boxes one to one, and keep the pairs with an IoU of at least ``threshold``.

    Args:
        found: (N, 4), as for ``overlaps``.
        true: (M, 4).
        threshold: above 0.
        matching: see ``SdgConfig``.
    """
    if not len(found) or not len(true):
        return []
    iou, diou = overlaps(found, true)
    if matching == "hungarian":
        from scipy.optimize import linear_sum_assignment

        chosen = list(zip(*map(np.ndarray.tolist, linear_sum_assignment(1 - diou)), strict=True))
    else:
        chosen = _greedy(iou)
    return [Pair(row, column, float(iou[row, column])) for row, column in chosen if iou[row, column] >= threshold]


def _greedy(iou: Floats) -> list[tuple[int, int]]:
    """The best pair of those that are left, again and again; of equal ones the last, as in the released script."""
    order = sorted(np.ndindex(iou.shape), key=lambda place: (iou[place], *place), reverse=True)
    rows, columns = set[int](), set[int]()
    taken = []
    for row, column in order:
        if row not in rows and column not in columns:
            taken.append((row, column))
            rows.add(row)
            columns.add(column)
    return taken


def compare_defects(
    found: Sequence[Region],
    true: Sequence[Region],
    size: Size,
    config: SdgConfig,
    *,
    boxes: bool = True,
    importance: bool = True,
    cosines: Cosines | None = None,
) -> dict[str, Tally]:
    """What one image adds to the figures of one type.

    Args:
        found: the predicted defects of this type.
        true: the true ones.
        size: of the image.
        config: what is counted.
        boxes: whether the true boxes are known.
        importance: whether the severities of the true defects are known.
        cosines: of the descriptions, a row for each predicted defect and a column for each true one; None if unknown.

    Returns:
        Figure -> part and whole; without the figures that are not known.
    """
    has, said = bool(true), bool(found)
    tallies = {"DetTypeF1": Tally(2.0 * (has and said), float(has + said))}
    tallies |= {"ClnAcc": Tally(float(not has and not said), float(not has))}
    if not boxes:
        return tallies
    ours, theirs = ([at for at, region in enumerate(side) if region.placed] for side in (found, true))
    corners = _thousandths([found[at] for at in ours], size), _thousandths([true[at] for at in theirs], size)
    matched = {threshold: match_boxes(*corners, threshold, config.matching) for threshold in THRESHOLDS}
    for threshold, pairs in matched.items():
        tallies[f"BoxF1@{threshold}"] = Tally(2.0 * len(pairs), float(len(ours) + len(theirs)))
    places = [(ours[pair.found], theirs[pair.true]) for pair in matched[THRESHOLDS[0]]]
    return tallies | _of_pairs(found, true, places, cosines, importance=importance)


def description_cosines(found: Analysis, true: Analysis, encoder: SentenceEncoder) -> dict[DefectType, Cosines]:
    """Cosines of the explanations of all pairs of a type, by type; 0 where one is blank.

    Raises:
        ModelError: the encoder returns NaN or infinity.
    """
    said = {region.explanation for side in (found, true) for region in side.regions if region.explanation.strip()}
    texts = sorted(said)
    vectors = dict(zip(texts, encoder.encode(texts), strict=True)) if texts else {}
    return {
        kind: [
            [_cosine(vectors.get(ours.explanation), vectors.get(theirs.explanation)) for theirs in of_type(true, kind)]
            for ours in of_type(found, kind)
        ]
        for kind in TYPES
    }


def _cosine(first: NDArray[np.float32] | None, second: NDArray[np.float32] | None) -> float:
    return 0.0 if first is None or second is None else float(first @ second)


def _of_pairs(
    found: Sequence[Region],
    true: Sequence[Region],
    matched: Sequence[tuple[int, int]],
    cosines: Cosines | None,
    *,
    importance: bool,
) -> dict[str, Tally]:
    """The figures of the matched pairs."""
    tallies, ending = {}, f"@{THRESHOLDS[0]}"
    if cosines is not None:
        described = [(row, column) for row, column in matched if true[column].explanation.strip()]
        total = sum(cosines[row][column] for row, column in described if found[row].explanation.strip())
        tallies[f"DescCos{ending}"] = Tally(float(total), float(len(described)))
    if importance:
        weights = [(100 * found[row].severity, 100 * true[column].severity) for row, column in matched]
        near = sum(1 - abs(ours - theirs) / 100 for ours, theirs in weights)
        same = sum(_bucket(ours) == _bucket(theirs) for ours, theirs in weights)
        tallies[f"ImpAcc{ending}"] = Tally(float(near), float(len(matched)))
        tallies[f"ImpBucket{ending}"] = Tally(float(same), float(len(matched)))
    return tallies


def _bucket(importance: float) -> int:
    return sum(round(importance, 6) >= bound for bound in _BOUNDS)


def _thousandths(regions: Sequence[Region], size: Size) -> Floats:
    """Boxes in thousandths of the sides, (N, 4)."""
    scale = np.array([size.width, size.height] * 2, dtype=np.float64) / FULL
    return np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4) / scale
