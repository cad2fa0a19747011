"""Heat maps as masks: torch's bilinear resize, and the protocol's steps in their order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner.errors import InputError
from refiner.metrics.heatmaps import HeatmapConfig, compare_heatmap, heatmap_mask, resize_bilinear
from refiner.types import Size

sides = st.integers(1, 30)


@settings(max_examples=30)
@given(sides, sides, sides, sides, st.integers(0, 9))
def test_resizing_is_torchs(h, w, height, width, seed):
    values = np.random.default_rng(seed).random((h, w))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert np.allclose(resize_bilinear(values, Size(height, width)), wanted, atol=1e-12)


@given(st.floats(0.1, 50), st.floats(-50, 50))
def test_scale_and_offset_of_a_map_do_not_matter(scale, offset):
    heatmap = np.random.default_rng(1).random((7, 5))
    size = Size(21, 20)
    stretched = (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())
    clear = abs(resize_bilinear(stretched, size) - 0.5) > 1e-6
    assert np.array_equal(heatmap_mask(heatmap, size)[clear], heatmap_mask(heatmap * scale + offset, size)[clear])


def test_a_map_of_the_truth_is_perfect_and_a_flat_one_says_nothing():
    truth = np.zeros((32, 48), dtype=bool)
    truth[8:16, 16:32] = True
    assert compare_heatmap(truth.astype(np.float32) * 7 - 3, truth).iou() == 1
    flat = compare_heatmap(np.full((4, 6), 0.9), truth)
    assert not flat.reported
    assert flat.fn == truth.sum()
    assert compare_heatmap(np.full((4, 6), 0.9), truth, HeatmapConfig(stretch="none")).par == truth.mean()
    assert compare_heatmap(np.full((4, 6), 0.9), truth, HeatmapConfig(stretch="none")).predicted_par == 1


def test_the_threshold_lies_outside():
    values = np.array([[0.0, 0.5], [0.51, 1.0]])
    assert heatmap_mask(values, Size(2, 2)).tolist() == [[False, False], [True, True]]
    assert heatmap_mask(values, Size(2, 2), HeatmapConfig(threshold=0.6)).sum() == 1


@pytest.mark.parametrize(
    "heatmap",
    [np.zeros((0, 3)), np.zeros(4), np.zeros((2, 2, 1)), np.array([[0, np.nan]]), np.array([[0, np.inf]])],
)
def test_maps_that_cannot_be_used_are_refused(heatmap):
    with pytest.raises(InputError, match="leave this image out"):
        heatmap_mask(heatmap, Size(4, 4))


def test_unstretched_maps_must_lie_in_the_unit():
    with pytest.raises(InputError, match="stretch it"):
        heatmap_mask(np.array([[0.0, 1.5]]), Size(4, 4), HeatmapConfig(stretch="none"))


def test_signatures_name_the_choices():
    default, other = HeatmapConfig().signature, HeatmapConfig(threshold=0.4, stretch="none").signature
    assert "threshold>0.5" in default
    assert default != other
