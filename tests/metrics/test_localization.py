"""Pixel figures against counting by hand, and their averages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from refiner.errors import ConfigError
from refiner.metrics.localization import PixelCounts, PixelTotals, by_artifact_ratio, count_pixels

masks = arrays(np.bool_, (5, 7))
pairs = st.lists(st.tuples(masks, masks), min_size=1, max_size=5)


def by_hand(predicted, truth):
    tp = fp = fn = tn = 0
    for said, is_so in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        tp, fp, fn, tn = (
            tp + (said and is_so),
            fp + (said and not is_so),
            fn + (is_so and not said),
            tn + (not said and not is_so),
        )
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def total_pixels(counts):
    return sum(map(PixelTotals.of, counts), PixelTotals())


@given(masks, masks)
def test_pixels_are_counted_as_by_hand(predicted, truth):
    assert count_pixels(predicted, truth) == PixelCounts(**by_hand(predicted, truth))


@given(pairs)
def test_pooled_figures_are_those_of_all_pixels_together(images):
    totals = total_pixels(count_pixels(*pair) for pair in images)
    predicted, truth = (np.concatenate([pair[side].ravel() for pair in images]) for side in (0, 1))
    wanted = {
        "IoU": jaccard_score(truth, predicted, zero_division=0),
        "PixP": precision_score(truth, predicted, zero_division=0),
        "PixR": recall_score(truth, predicted, zero_division=0),
        "PixF1": f1_score(truth, predicted, zero_division=0),
    }
    assert totals.pad() == pytest.approx(wanted, abs=1e-12)
    background = jaccard_score(~truth, ~predicted, zero_division=0)
    assert totals.legion()["pooled"]["miou"] == pytest.approx((wanted["IoU"] + background) / 2, abs=1e-12)
    assert totals.images == len(images)


def iou_by_hand(first, second):
    either = (first | second).sum()
    return (first & second).sum() / either if either else 1.0


def f1_by_hand(predicted, truth):
    whole = predicted.sum() + truth.sum()
    return 2 * (predicted & truth).sum() / whole if whole else 1.0


@given(pairs)
def test_per_image_figures_are_means_of_the_images_own(images):
    totals = total_pixels(count_pixels(*pair) for pair in images)
    miou = np.mean([(iou_by_hand(*pair) + iou_by_hand(~pair[0], ~pair[1])) / 2 for pair in images])
    f1 = np.mean([f1_by_hand(*pair) for pair in images])
    assert totals.legion()["per_image"] == pytest.approx({"miou": miou, "f1": f1}, abs=1e-12)
    assert totals.pad_per_image()["IoU"] == pytest.approx(np.mean([iou_by_hand(*pair) for pair in images]), abs=1e-12)
    assert totals.pad_per_image()["PixF1"] == pytest.approx(f1, abs=1e-12)


@given(pairs, st.integers(0, 5))
def test_shards_add_up(images, cut):
    counts = [count_pixels(*pair) for pair in images]
    whole, parts = total_pixels(counts), total_pixels(counts[:cut]) + total_pixels(counts[cut:])
    assert whole.counts == parts.counts
    assert whole.legion()["per_image"] == pytest.approx(parts.legion()["per_image"], abs=1e-12)


def test_perfect_shuffled_and_empty():
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), dtype=bool)
    truth[5:9, 5:9] = True
    perfect = total_pixels([count_pixels(truth, truth)])
    assert set(perfect.pad().values()) == {1.0}
    assert perfect.legion()["per_image"] == {"miou": 1.0, "f1": 1.0}
    shuffled = rng.permutation(truth.ravel()).reshape(64, 64)
    assert max(total_pixels([count_pixels(shuffled, truth)]).pad().values()) < 0.15
    nothing = np.zeros_like(truth)
    empty = total_pixels([count_pixels(nothing, nothing)])
    assert set(empty.pad().values()) == {0.0}
    assert set(empty.pad_per_image().values()) == {1.0}
    missed, invented = count_pixels(nothing, truth), count_pixels(truth, nothing)
    for counts in (missed, invented):
        assert set(PixelTotals.of(counts).pad_per_image().values()) == {0.0}
    assert PixelTotals().pad_per_image()["IoU"] == 0.0
    full = np.ones_like(truth)
    assert PixelTotals.of(count_pixels(full, full)).legion()["per_image"]["miou"] == 1.0


def test_the_artifact_ratio_is_the_share_of_flawed_pixels():
    truth, predicted = np.zeros((2, 4, 5), dtype=bool)
    truth[:2] = True
    predicted[0] = True
    counts = count_pixels(predicted, truth)
    assert (counts.par, counts.predicted_par) == (0.5, 0.25)
    table = by_artifact_ratio(PixelTotals.of(counts), PixelTotals.of(count_pixels(predicted, ~predicted & False)))
    assert table["PAR>0"] | {"images": 1, "flagged": 1.0, "par": 0.5, "predicted_par": 0.25} == table["PAR>0"]
    assert table["PAR=0"]["flagged"] == 1.0
    assert table["PAR=0"]["par"] == 0.0


@pytest.mark.parametrize("other", [np.zeros((3, 4), bool), np.zeros((4, 3), np.uint8)])
def test_masks_that_do_not_compare_are_refused(other):
    with pytest.raises(ConfigError, match="two bool masks of one shape"):
        count_pixels(np.zeros((4, 3), bool), other)


def test_signatures_name_the_choices():
    assert "average=per_image,pooled" in PixelTotals().legion()["signature"]
