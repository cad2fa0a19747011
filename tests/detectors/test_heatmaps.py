"""Heat maps from attention and gradients, against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.plain_rollout import plain_rollout

from refiner.detectors.heatmaps import gradcam, relevance, rollout, scaled


def layers_of(seed: int, count: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Attention whose rows add up to 1, and gradients, of two images and two heads, for 5 tokens."""
    rng = np.random.default_rng(seed)
    raw = [rng.random((2, 2, 5, 5)) for _ in range(count)]
    return [each / each.sum(-1, keepdims=True) for each in raw], [rng.normal(size=(2, 2, 5, 5)) for _ in range(count)]


def tensors(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize(("prefix", "cls"), [(1, True), (3, True), (0, False), (1, False)])
def test_rollout_is_that_of_a_plain_program(prefix: int, cls: bool) -> None:
    attention, gradients = layers_of(prefix)
    found = rollout(tensors(attention), tensors(gradients), prefix=prefix, cls=cls)
    assert np.allclose(found, plain_rollout(attention, gradients, prefix, cls), atol=1e-12)
    assert (found >= 0).all()


def test_rollout_of_one_layer_is_its_positive_part_and_without_gradients_it_is_zero() -> None:
    attention, gradients = layers_of(9, 1)
    step = np.maximum(0, (attention[0] * gradients[0]).mean(1))
    wanted = step[:, 0, 1:] / (1 + step[:, 0].sum(-1, keepdims=True))
    assert np.allclose(rollout(tensors(attention), tensors(gradients), prefix=1, cls=True), wanted)
    nothing = rollout(tensors(attention), [torch.zeros(2, 2, 5, 5)], prefix=1, cls=True)
    assert not nothing.any()


def test_relevance_is_that_of_chefer() -> None:
    attention, gradients = layers_of(4)
    joined = np.stack([np.eye(5)] * 2)
    for layer, slopes in zip(attention, gradients, strict=True):
        joined = joined + np.einsum("nij,njk->nik", np.maximum(layer * slopes, 0).mean(1), joined)
    found = relevance(tensors(attention), tensors(gradients), prefix=1, cls=True)
    assert np.allclose(found, joined[:, 0, 1:])


def test_gradcam_weighs_channels_by_their_mean_gradient() -> None:
    rng = np.random.default_rng(0)
    features, slopes = rng.normal(size=(2, 2, 3, 4, 4))
    wanted = np.maximum(0, sum(features[:, c] * slopes[:, c].mean((1, 2))[:, None, None] for c in range(3)))
    assert np.allclose(gradcam(torch.from_numpy(features), torch.from_numpy(slopes)), wanted)


def test_relevance_of_one_layer_is_attention_that_helps() -> None:
    attention, gradient = torch.rand(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    wanted = (attention * gradient).clamp(min=0).mean(dim=1)[:, 0, 1:]
    assert torch.allclose(relevance([attention], [gradient]), wanted)
    assert not relevance([attention], [-gradient.abs()]).any()


def test_relevance_finds_the_patch_that_decides() -> None:
    attention = torch.full((1, 1, 4, 4), 0.01)
    attention[0, 0, 0, 2] = 0.9
    assert relevance([attention], [torch.ones_like(attention)])[0].argmax() == 1


@pytest.mark.parametrize("walk", [rollout, relevance])
def test_half_precision_is_summed_in_float32(walk) -> None:
    attention, gradients = layers_of(6)
    halves = [[each.bfloat16() for each in tensors(arrays)] for arrays in (attention, gradients)]
    found = walk(*halves)
    assert found.dtype == torch.float32
    wanted = walk(*([each.float() for each in group] for group in halves))
    assert torch.allclose(found, wanted, rtol=0.02, atol=1e-3)


def test_scaled_maps_reach_one_and_zeros_stay() -> None:
    found = scaled(torch.tensor([[[0.0, 2.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    assert found.tolist() == [[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
