"""Read the published checkpoint of DDA, whose adapters lie beside the weights of DINOv2.

Its file holds the names of Meta's DINOv2 with adapters (``original_layer``, ``lora.lora_A``, ``lora.lora_B``), and one
matrix for queries, keys and values. Names and shapes were read in the authors' repository, roy-ch/Dual-Data-Alignment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from refiner.detectors.aligngemini.config import ExpertConfig
from refiner.errors import WeightsError

ALPHA: Final = 1.0
"""The published adapters are scaled by ALPHA / rank, which their file does not say."""
_HEAD: Final = 64
"""Width of an attention head in every DINOv2."""
_OFFSET: Final = 0.1
"""What Meta's DINOv2 adds to the number of patches when it scales its position embeddings."""
_BACKBONE, _LAYER, _ADAPTER = "base_model.model.", "original_layer.", "lora.lora_"
_BLOCK = re.compile(r"blocks\.(\d{1,3})\.(.+)")
_NAMES: Final[Mapping[str, str]] = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_PARTS: Final[Mapping[str, str]] = {
    "norm1": "norm1", "attn.proj": "attention.o_proj", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1",
}  # fmt: skip
_FUSED: Final = "attn.qkv"
_SPLIT: Final = ("attention.q_proj", "attention.k_proj", "attention.v_proj")


def read_published(path: Path) -> tuple[ExpertConfig, dict[str, Tensor]]:
    """Read a checkpoint.

    Returns:
        The settings, and the state of an ``Expert`` with the adapters merged, float32. The position embeddings have the
        size of the image that the expert sees, scaled as Meta's DINOv2 does.

    Raises:
        WeightsError: the file is damaged, or of another network.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        stored = document.get("model", document)
        weights = {str(name).removeprefix("module."): value.float() for name, value in stored.items()}
        return _converted(weights)
    except Exception as error:  # damaged files may raise anything
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WeightsError(
            f"{str(path)!r} cannot be read as a checkpoint of DDA ({first:.200}): download it again."
        ) from error


def _converted(weights: Mapping[str, Tensor]) -> tuple[ExpertConfig, dict[str, Tensor]]:
    merged = _merged({name: weight for name, weight in weights.items() if name.startswith(_BACKBONE)})
    head = {f"head.{kind}": weights[f"base_model.fc.{kind}"] for kind in ("weight", "bias")}
    surplus = len(weights) - len(head) - sum(name.startswith(_BACKBONE) for name in weights)
    if surplus:
        raise ValueError(f"{surplus} weights are of another network")
    patches = merged["patch_embed.proj.weight"]
    layers = 1 + max(int(match[1]) for name in merged if (match := _BLOCK.fullmatch(name)))
    width = len(patches)
    backbone: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "mlp_ratio": len(merged["blocks.0.mlp.fc1.weight"]) // width,
        "patch_size": patches.shape[-1],
    }
    config = ExpertConfig(backbone=backbone)
    cells = config.side // patches.shape[-1]
    merged["pos_embed"] = resized_positions(merged["pos_embed"], cells)
    state = {f"backbone.{name}": value for name, value in _renamed(merged).items()}
    return config, {**state, **head}


def _merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the backbone with its adapters added, under Meta's names."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        bare = name.removeprefix(_BACKBONE)
        if _ADAPTER in bare:
            continue
        if bare.endswith(f"{_LAYER}weight"):
            place = name.removesuffix(f"{_LAYER}weight")
            first, second = weights[f"{place}{_ADAPTER}A"], weights[f"{place}{_ADAPTER}B"]
            weight = weight + ALPHA / len(first) * second @ first
        found[bare.replace(_LAYER, "")] = weight
    return found


def resized_positions(positions: Tensor, cells: int) -> Tensor:
    """Position embeddings, float (1, 1 + n * n, width), for ``cells`` x ``cells`` patches.

    They are scaled bicubically by (cells + 0.1) / n, as Meta's DINOv2 does at each pass; transformers would scale by
    cells / n, which gives slightly other values.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if side * side != positions.shape[1] - 1:
        raise ValueError(f"{positions.shape[1]} position embeddings are not those of a square of patches and CLS")
    if side == cells:
        return positions
    grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (cells + _OFFSET) / side
    scaled = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of transformers, with queries, keys and values apart."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            found[_NAMES[name]] = weight
            continue
        layer, part, kind = f"encoder.layer.{match[1]}", *_split(match[2])
        if part == _FUSED:
            for each, rows in zip(_SPLIT, weight.chunk(3), strict=True):
                found[f"{layer}.{each}{kind}"] = rows.contiguous()
        else:
            found[f"{layer}.{_PARTS[part]}{kind}"] = weight
    return found


def _split(name: str) -> tuple[str, str]:
    part, dot, kind = name.rpartition(".")
    return (name, "") if kind == "gamma" else (part, dot + kind)
