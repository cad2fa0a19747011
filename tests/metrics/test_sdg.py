"""SDG-Eval against a brute force of its definition: all assignments, and precision and recall written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from refiner.errors import ConfigError
from refiner.metrics.sdg import (
    TYPES,
    SdgConfig,
    compare_defects,
    description_cosines,
    match_boxes,
    of_type,
    overlaps,
)
from refiner.taxonomy import Category
from refiner.types import Analysis, Box, Region, Size

SIZE = Size(120, 200)
Corners = tuple[float, ...]


class Image(NamedTuple):
    """One image: predicted and true defects of both types, and the cosine of each pair of descriptions."""

    found: Analysis
    true: Analysis
    cosines: dict[str, list[list[float]]]


def defect(rng: np.random.Generator, near: Box | None = None, **fields: Any) -> Region:
    kind = rng.choice([Category.TEXTURE, Category.ANATOMY, Category.MISALIGNMENT])
    if near is None:
        x0, y0 = int(rng.integers(0, 150)), int(rng.integers(0, 80))
        box = (x0, y0, x0 + int(rng.integers(1, 50)), y0 + int(rng.integers(1, 40)))
    else:
        x0, y0 = max(0, near[0] + int(rng.integers(-9, 9))), max(0, near[1] + int(rng.integers(-9, 9)))
        x1, y1 = min(200, near[2] + int(rng.integers(-4, 9))), min(120, near[3] + int(rng.integers(-4, 9)))
        box = (x0, y0, max(x0 + 1, x1), max(y0 + 1, y1))
    place: dict[str, Any] = {"mask": None, "box": None if rng.random() < 0.1 else box}
    words = "" if rng.random() < 0.2 else "six toes"
    facts = {"category": kind, "severity": float(rng.integers(1, 101)) / 100, "explanation": words}
    return Region(**{"name": "it", **place, **facts, **fields})


def images(seed: int, count: int = 25) -> list[Image]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        true = [
            defect(rng, box=(x, x, x + 30, x + 20)) if rng.random() < 0.1 else defect(rng)
            for x in rng.integers(0, 90, rng.integers(0, 5)).tolist()
        ]
        near = [region.box for region in true if region.box and rng.random() < 0.7]
        found = [defect(rng, box) for box in near] + [defect(rng) for _ in range(rng.integers(0, 3))]
        sides = [Analysis(size=SIZE, regions=tuple(side), detector="drawn") for side in (found, true)]
        cosines = {
            kind: rng.uniform(-1, 1, (len(of_type(sides[0], kind)), len(of_type(sides[1], kind)))).tolist()
            for kind in TYPES
        }
        made.append(Image(*sides, cosines))
    return made


def thousandths(region: Region) -> Corners:
    assert region.box is not None
    x0, y0, x1, y1 = region.box
    return 1000 * x0 / SIZE.width, 1000 * y0 / SIZE.height, 1000 * x1 / SIZE.width, 1000 * y1 / SIZE.height


def iou_of(first: Corners, second: Corners) -> float:
    across = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    down = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    both = across * down
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - both)


def diou_of(first: Corners, second: Corners) -> float:
    apart = math.dist(*(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (first, second)))
    low, high = (
        (min(first[0], second[0]), min(first[1], second[1])),
        (max(first[2], second[2]), max(first[3], second[3])),
    )
    return iou_of(first, second) - (apart / math.dist(low, high)) ** 2


def assignments(rows: Sequence[int], columns: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """All one-to-one matchings in which the shorter side is used up."""
    if len(rows) <= len(columns):
        for chosen in itertools.permutations(columns, len(rows)):
            yield list(zip(rows, chosen, strict=True))
    else:
        for chosen in itertools.permutations(rows, len(columns)):
            yield list(zip(chosen, columns, strict=True))


def by_definition(drawn: Sequence[Image], kind: str) -> dict[str, float]:
    """Equations 7 to 10 of the paper, over all images of a set."""
    both = says = has = clean = right = predicted = real = 0
    hits = {0.1: 0, 0.5: 0}
    cosines: list[float] = []
    near: list[float] = []
    same: list[bool] = []
    for image in drawn:
        wanted = {"artifact": lambda region: region.category is not Category.MISALIGNMENT}
        wanted["misalignment"] = lambda region: region.category is Category.MISALIGNMENT
        found = [region for region in image.found.regions if wanted[kind](region)]
        true = [region for region in image.true.regions if wanted[kind](region)]
        both, says, has = both + bool(found and true), says + bool(found), has + bool(true)
        clean, right = clean + (not true), right + (not true and not found)
        rows = [at for at, region in enumerate(found) if region.box]
        columns = [at for at, region in enumerate(true) if region.box]
        predicted, real = predicted + len(rows), real + len(columns)
        best = min(
            assignments(rows, columns),
            key=lambda pairs: sum(1 - diou_of(thousandths(found[i]), thousandths(true[j])) for i, j in pairs),
        )
        for i, j in best:
            iou = iou_of(thousandths(found[i]), thousandths(true[j]))
            for tau in hits:
                hits[tau] += iou >= tau
            if iou >= 0.1:
                scores = [100 * region.severity for region in (found[i], true[j])]
                near.append(1 - abs(scores[0] - scores[1]) / 100)
                same.append(len({(score > 39.5) + (score > 69.5) for score in scores}) == 1)
                if true[j].explanation:
                    cosines.append(image.cosines[kind][i][j] if found[i].explanation else 0.0)
    precision, recall = both / says, both / has
    figures = {"DetTypeF1": 2 * precision * recall / (precision + recall), "ClnAcc": right / clean}
    figures |= {f"BoxF1@{tau}": 2 * count / (predicted + real) for tau, count in hits.items()}
    means = {"DescCos@0.1": cosines, "ImpAcc@0.1": near, "ImpBucket@0.1": same}
    return figures | {name: sum(values) / len(values) for name, values in means.items()}


def figures_of(drawn: Sequence[Image], kind: Any, config: SdgConfig | None = None) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for image in drawn:
        tallies = compare_defects(
            of_type(image.found, kind), of_type(image.true, kind), SIZE, config or SdgConfig(),
            cosines=image.cosines[kind],
        )  # fmt: skip
        for name, tally in tallies.items():
            sums.setdefault(name, [0.0, 0.0])
            sums[name][0] += tally.part
            sums[name][1] += tally.whole
    return {name: part / whole for name, (part, whole) in sums.items()}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("seed", range(12))
def test_all_figures_equal_those_of_the_definition(seed: int, kind: str) -> None:
    drawn = images(seed)
    wanted = by_definition(drawn, kind)
    assert list(figures_of(drawn, kind)) == list(wanted)
    assert figures_of(drawn, kind) == pytest.approx(wanted, abs=1e-12)
    assert 0 < wanted["BoxF1@0.1"] < 1


@pytest.mark.parametrize("kind", TYPES)
def test_a_perfect_answer_has_only_ones_and_an_empty_one_only_clean_images(kind: Any) -> None:
    drawn = [image._replace(found=image.true) for image in images(3)]
    drawn = [image._replace(cosines={each: np.ones((9, 9)).tolist() for each in TYPES}) for image in drawn]
    worded = [
        image._replace(
            found=Analysis(size=SIZE, detector="x", regions=tuple(r for r in image.true.regions if r.explanation)),
            true=Analysis(size=SIZE, detector="x", regions=tuple(r for r in image.true.regions if r.explanation)),
        )
        for image in drawn
    ]
    assert set(figures_of(worded, kind).values()) == {1.0}
    silent = [image._replace(found=Analysis(size=SIZE, detector="x")) for image in drawn]
    tallies = [compare_defects([], of_type(image.true, kind), SIZE, SdgConfig(), cosines=[]) for image in silent]
    for name in tallies[0]:
        assert sum(tally[name].part for tally in tallies) == (
            sum(tally[name].whole for tally in tallies) if name == "ClnAcc" else 0
        )


def box(*corners: float) -> np.ndarray:
    return np.array([corners], dtype=np.float64)


def test_the_least_sum_counts_not_the_best_pair() -> None:
    true = np.concatenate([box(0, 0, 100, 100), box(60, 0, 160, 100)])
    found = np.concatenate([box(20, 0, 120, 100), box(60, 60, 110, 160)])
    iou, diou = overlaps(found, true)
    assert iou[0, 0] > iou[0, 1] > 0
    pairs = {(pair.found, pair.true) for pair in match_boxes(found, true, 1e-9)}
    sums = {chosen: 2 - diou[0, chosen] - diou[1, 1 - chosen] for chosen in (0, 1)}
    best = min(sums, key=lambda chosen: sums[chosen])
    assert pairs == {(0, best), (1, 1 - best)}


def test_greedy_takes_the_best_pair_first_as_the_released_script_does() -> None:
    true = np.concatenate([box(0, 0, 100, 100), box(60, 0, 160, 100)])
    found = np.concatenate([box(50, 0, 150, 100), box(90, 0, 190, 100)])
    assert [pair[:2] for pair in match_boxes(found, true, 0.05, "greedy")] == [(0, 1), (1, 0)]
    assert [pair[:2] for pair in match_boxes(found, true, 0.1, "greedy")] == [(0, 1)]
    assert [pair[:2] for pair in match_boxes(found, true, 0.1, "hungarian")] == [(0, 0), (1, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_overlaps_are_symmetric_and_bounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1000, (2, 7, 2, 2)), axis=2) + np.array([[0.0], [1.0]])
    first, second = corners.reshape(2, 7, 4)
    (iou, diou), (back, forth) = overlaps(first, second), overlaps(second, first)
    np.testing.assert_allclose(iou, back.T, atol=1e-12)
    np.testing.assert_allclose(diou, forth.T, atol=1e-12)
    assert (diou <= iou).all()
    assert (diou > -1).all()
    np.testing.assert_allclose(np.diag(overlaps(first, first)[1]), 1, atol=1e-12)


def test_what_is_not_known_is_no_figure() -> None:
    flaw = [Region(mask=None, box=(0, 0, 9, 9), name="it", category=Category.SHAPE)]
    assert set(compare_defects(flaw, flaw, SIZE, SdgConfig(), boxes=False)) == {"DetTypeF1", "ClnAcc"}
    names = set(compare_defects(flaw, flaw, SIZE, SdgConfig(), importance=False))
    assert names == {"DetTypeF1", "ClnAcc", "BoxF1@0.1", "BoxF1@0.5"}


def test_descriptions_are_compared_within_a_type_and_blank_ones_are_not_read() -> None:
    class Letters:
        """A vector for each first letter; it cannot read a blank text."""

        def encode(self, texts: Sequence[str]) -> np.ndarray:
            assert all(text.strip() for text in texts)
            return np.array([[text[0] == "a", text[0] == "b"] for text in texts], dtype=np.float32)

    def region(words: str, category: Category = Category.SHAPE) -> Region:
        return Region(mask=None, box=(0, 0, 9, 9), name="it", explanation=words, category=category)

    found = Analysis(
        size=SIZE, regions=(region("a toe"), region(" "), region("b", Category.MISALIGNMENT)), detector="x"
    )
    true = Analysis(size=SIZE, regions=(region("b toe"), region("a eye"), region("")), detector="x")
    cosines = description_cosines(found, true, Letters())  # type: ignore[arg-type]
    assert cosines == {"artifact": [[0, 1, 0], [0, 0, 0]], "misalignment": [[]]}
    nothing = Analysis(size=SIZE, detector="x")
    assert description_cosines(nothing, nothing, Letters()) == {"artifact": [], "misalignment": []}  # type: ignore[arg-type]


def test_the_signature_names_the_matching_and_what_is_not_published() -> None:
    signatures = [SdgConfig(matching=matching).signature for matching in ("hungarian", "greedy")]
    assert len(set(signatures)) == 2
    assert "1-DIoU" in signatures[0]
    assert all(signature.count("unpublished") == 2 for signature in signatures)
    with pytest.raises(ConfigError, match="hungarian or greedy"):
        SdgConfig(matching="best")  # type: ignore[arg-type]
