"""X-AIGD's heat maps against independent references, and the attention that they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_xaigd import BACKBONES, SIDE, tiny_config, tiny_model

from refiner.detectors.xaigd.heatmaps import class_map, gradcam, relevance, rollout
from refiner.detectors.xaigd.modeling import XaigdModel

VITS = [kind for kind in BACKBONES if kind != "timm"]


def pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def layers_of(seed: int, count: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Attention whose rows add up to 1, and gradients, of two images and two heads, for 5 tokens."""
    rng = np.random.default_rng(seed)
    raw = [rng.random((2, 2, 5, 5)) for _ in range(count)]
    return [each / each.sum(-1, keepdims=True) for each in raw], [rng.normal(size=(2, 2, 5, 5)) for _ in range(count)]


def tensors(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def plain_rollout(attention: list[np.ndarray], gradients: list[np.ndarray], prefix: int, cls: bool) -> np.ndarray:
    """Gradient attention rollout, image by image and entry by entry."""
    tokens = attention[0].shape[-1]
    rows = []
    for image in range(len(attention[0])):
        joined = np.eye(tokens)
        for layer, slopes in zip(attention, gradients, strict=True):
            step = np.zeros((tokens, tokens))
            for i in range(tokens):
                for j in range(tokens):
                    products = [layer[image, head, i, j] * slopes[image, head, i, j] for head in range(layer.shape[1])]
                    step[i, j] = (max(0.0, sum(products) / len(products)) + (i == j)) / 2
                step[i] /= step[i].sum()
            joined = step @ joined
        if cls:
            rows.append(joined[0, prefix:])
        else:
            own = range(prefix, tokens)
            rows.append(np.array([sum(joined[i, j] for i in own if i != j) / len(own) for j in own]))
    return np.stack(rows)


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


@pytest.mark.parametrize("kind", VITS)
def test_recorded_attention_and_its_map_are_those_of_written_out_attention(kind: str) -> None:
    model, images = tiny_model(kind).requires_grad_(False), pixels()
    output = model(images, 2)
    assert len(output.seen.attention) == 2
    plain = model.backbone.model
    plain.set_attn_implementation("eager")
    inputs = model.backbone._inputs(images.requires_grad_())
    whole = plain(**inputs, output_attentions=True)
    for mine, theirs in zip(output.seen.attention, whole.attentions[-2:], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    hidden = whole.last_hidden_state[:, output.seen.prefix :]
    pooled = whole.pooler_output if model.config.pool == "cls" else hidden.mean(dim=1)
    assert model.verdict is not None
    logit = model.verdict(pooled)[:, 0]
    assert torch.allclose(logit, output.verdict, atol=1e-4)
    attention = whole.attentions[-2:]
    gradients = torch.autograd.grad(logit.sum(), attention)
    flat = plain_rollout(
        [each.detach().double().numpy() for each in attention], [each.double().numpy() for each in gradients],
        output.seen.prefix, model.config.pool == "cls",
    )  # fmt: skip
    wanted = flat / flat.max(axis=1, keepdims=True)
    found = class_map(model.config, output, "rollout").flatten(1)
    assert np.allclose(found.detach(), wanted, atol=2e-3)


@pytest.mark.parametrize("kind", VITS)
def test_recording_changes_no_answer_and_keeps_only_the_layers_asked_for(kind: str) -> None:
    model, images = tiny_model(kind), pixels()
    with torch.no_grad():
        plain = model(images)
        assert plain.seen.attention == ()
        for layers, kept in ((1, 1), (2, 2), (0, 3)):
            seen = model(images, layers)
            assert len(seen.seen.attention) == kept
            assert torch.allclose(seen.verdict, plain.verdict, atol=1e-5)
            assert torch.allclose(seen.artifacts, plain.artifacts, atol=1e-5)
            for weights in seen.seen.attention:
                assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    assert plain.seen.prefix == {"clip_vision_model": 1, "dinov2": 1}.get(kind, 0 if "siglip" in kind else 5)


def test_a_map_does_not_depend_on_the_other_images_of_its_batch() -> None:
    model, images = tiny_model(), pixels(5)
    together = class_map(model.config, model(images, 0), "rollout")
    for place, image in enumerate(images):
        alone = class_map(model.config, model(image[None], 0), "rollout")
        assert torch.allclose(together[place], alone[0], atol=1e-4)


def test_a_cnn_of_ordinary_size_has_a_map_of_its_last_stage() -> None:
    config = replace(tiny_config("timm"), image_size=64, backbone={"model_type": "timm", "name": "resnet18"})
    model = XaigdModel(config).eval().requires_grad_(False)
    output = model(torch.randn(1, 3, 64, 64), 0)
    assert output.seen.patches.shape == (1, 512, 2, 2)
    assert class_map(config, output, "gradcam").shape == (1, 2, 2)
