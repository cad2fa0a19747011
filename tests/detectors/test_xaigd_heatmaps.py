"""X-AIGD's heat maps against independent references, and the attention that they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.plain_rollout import plain_rollout
from support.tiny_xaigd import BACKBONES, SIDE, tiny_config, tiny_model

from refiner.detectors.xaigd.heatmaps import class_map
from refiner.detectors.xaigd.modeling import XaigdModel

VITS = [kind for kind in BACKBONES if kind != "timm"]


def pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


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
