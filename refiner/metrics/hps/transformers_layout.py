"""transformers' ``CLIPModel`` as open_clip's CLIP: the same network with other names.

transformers has separate query, key and value weights and transposed projections. Otherwise only the names differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refiner.errors import WeightsError

_TOP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_TOWERS = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}
_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Position counts that older versions of transformers saved too."""
_EPSILON = 1e-5
"""Of open_clip's layer norms."""


def open_clip_config(body: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's ``model_cfg`` from the ``config.json`` of a ``CLIPModel``; missing values take CLIP's defaults.

    Raises:
        WeightsError: it describes another kind of model, or one that open_clip cannot build.
    """
    from transformers import CLIPConfig

    if body.get("model_type") != "clip":
        raise WeightsError(
            f"Expected a config.json of a CLIPModel, got model_type {body.get('model_type')!r}: name a CLIP's folder."
        )
    config = CLIPConfig.from_dict(dict(body))
    text, vision = config.text_config, config.vision_config
    kinds = {(tower.hidden_act, tower.layer_norm_eps) for tower in (text, vision)}
    if kinds not in ({("gelu", _EPSILON)}, {("quick_gelu", _EPSILON)}):
        raise WeightsError(
            f"Expected gelu or quick_gelu and a layer_norm_eps of {_EPSILON} in both towers, got {sorted(kinds)}: "
            "use the weights in open_clip's format."
        )
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
    }


def open_clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``CLIPModel``'s weights under open_clip's names.

    Raises:
        LookupError: a weight that a CLIPModel does not have, or a query, key or value without the other two.
    """
    renamed = {}
    for name, value in state.items():
        if name in _BUFFERS or ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        if name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = value.T.contiguous()
        elif ".self_attn.q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            layer, _, kind = name.rpartition(".self_attn.q_proj.")
            renamed[f"{_tower(layer)}.attn.in_proj_{kind}"] = torch.cat(parts)
        else:
            renamed[_TOP[name] if name in _TOP else _layer(name)] = value
    return renamed


def _tower(name: str) -> str:
    for theirs, ours in _TOWERS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise LookupError(name)


def _layer(name: str) -> str:
    path = _tower(name)
    for theirs, ours in _LAYER.items():
        if f".{theirs}." in path:
            return path.replace(f".{theirs}.", f".{ours}.")
    raise LookupError(name)
