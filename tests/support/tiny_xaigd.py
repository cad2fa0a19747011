"""Tiny X-AIGD detectors of all backbones, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from refiner.detectors.xaigd.config import XaigdConfig
from refiner.detectors.xaigd.detector import save_xaigd
from refiner.detectors.xaigd.modeling import XaigdModel

SIDE, PATCH = 48, 12
VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {
    "clip_vision_model": {**VIT, "intermediate_size": 32, "projection_dim": 16},
    "dinov2": {**VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**VIT, "mlp_ratio": 2, "num_register_tokens": 4},
    "dinov3_vit": {**VIT, "intermediate_size": 32, "num_register_tokens": 4},
    "siglip_vision_model": {**VIT, "intermediate_size": 32},
    "siglip2_vision_model": {
        **{name: value for name, value in VIT.items() if name != "image_size"}, "intermediate_size": 32,
        "num_patches": 16,
    },
    "timm": {"name": "test_resnet"},
}  # fmt: skip
"""``model_type`` -> its config, without the ``model_type``."""


def tiny_config(kind: str = "dinov2", **changes: Any) -> XaigdConfig:
    """A config of a tiny detector with both heads."""
    plain = kind == "timm" or kind.startswith("siglip")
    config = XaigdConfig(
        backbone={"model_type": kind, **BACKBONES[kind]},
        image_size=SIDE,
        pool="mean" if plain else "cls",
        heatmap="gradcam" if kind == "timm" else "rollout",
        decoder_width=8,
        zoom=2,
    )
    return replace(config, **changes)


def tiny_model(kind: str = "dinov2", *, seed: int = 0, **changes: Any) -> XaigdModel:
    """A tiny network. Its weights are large enough for answers that depend on the image."""
    torch.manual_seed(seed)
    model = XaigdModel(tiny_config(kind, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name and kind != "timm":
                weight.normal_(std=weight[0].numel() ** -0.5)
        if model.artifacts is not None:
            model.artifacts.leave.bias.zero_()
            model.artifacts.leave.weight.normal_(std=0.2)
    return model.eval()


def save_tiny(folder: Path, kind: str = "dinov2", **changes: Any) -> Path:
    """Write a tiny detector to a folder."""
    save_xaigd(tiny_model(kind, **changes), folder)
    return folder
