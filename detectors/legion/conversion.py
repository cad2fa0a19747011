"""Convert the layout of the public LEGION / GLaMM checkpoints to refiner's layout, by renaming the weights.

The original saves one flat model: ``model.*`` and ``lm_head`` of a LLaMA. CLIP, projector, SAM and the [SEG] projection
are below ``model.``. This module has only pure functions of names, shapes and configs. Nothing is downloaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from refiner.errors import WeightsError

PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. USER: The <im_start><image><im_end> provides an overview of the "
    "picture.\nPlease provide a detailed analysis of artifacts in this photo, considering physical artifacts (e.g., "
    "optical display issues, violations of physical laws, and spatial/perspective errors), structural artifacts "
    "(e.g., deformed objects, asymmetry, or distorted text), and distortion artifacts (e.g., color/texture "
    "distortion, noise/blur, artistic style errors, and material misrepresentation). Output with interleaved "
    "segmentation masks for the corresponding parts of the answer. ASSISTANT:"
)
"""The only instruction that the public checkpoint was trained with, in its conversation template."""

_DROPPED = re.compile(r"rotary_emb\.inv_freq$|^model\.region_encoder\.|\.pixel_(mean|std)$|\.position_ids$")
EMBEDDING = "llava.model.language_model.embed_tokens.weight"
HEAD = "llava.lm_head.weight"
TOWER = "llava.model.vision_tower."
_PLACES = "sam.prompt_encoder.shared_embedding.positional_embedding"
_FAMILIES = (
    (r"^model\.(embed_tokens|layers|norm)\.", r"llava.model.language_model.\1."),
    (r"^lm_head\.", "llava.lm_head."),
    (r"^model\.mm_projector\.0\.", "llava.model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "llava.model.multi_modal_projector.linear_2."),
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", TOWER),
    (r"^model\.text_hidden_fcs\.0\.", "text_hidden_fcs."),
    (r"^prediction_head\.", "prediction_head."),
    (r"^model\.grounding_encoder\.", "sam."),
)
_MLP = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_UPSCALING = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
_DOWNSCALING = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
_NECK = {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"}


def rename_key(key: str) -> str | None:
    """Return refiner's name for a weight of the original layout; None for a weight that is not needed.

    Raises:
        WeightsError: the original layout has no such weight.
    """
    if _DROPPED.search(key):
        return None
    for pattern, replacement in _FAMILIES:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return _rename_sam(renamed) if renamed.startswith("sam.") else renamed
    raise WeightsError(f"The weight {key!r} is not part of the LEGION / GLaMM layout: choose a folder of such a model.")


def _rename_sam(key: str) -> str:
    key = re.sub(r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.(\d)", _pick(_MLP, 2, r"{1}.{0}"), key)
    key = re.sub(r"output_upscaling\.(\d)", _pick(_UPSCALING, 1, "{0}"), key)
    key = re.sub(r"mask_downscaling\.(\d)", _pick(_DOWNSCALING, 1, "mask_embed.{0}"), key)
    key = re.sub(r"image_encoder\.neck\.(\d)", _pick(_NECK, 1, "vision_encoder.neck.{0}"), key)
    key = key.replace("image_encoder.", "vision_encoder.").replace("vision_encoder.blocks.", "vision_encoder.layers.")
    key = key.replace("patch_embed.proj.", "patch_embed.projection.")
    key = key.replace("point_embeddings.", "point_embed.")
    key = key.replace("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding")
    return re.sub(r"\.norm(\d|_final)", r".layer_norm\1", key)


def _pick(names: Mapping[str, str], group: int, form: str) -> Callable[[re.Match[str]], str]:
    return lambda match: form.format(names[match[group]], match[1])


def convert_weight(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Rename one weight of the original layout; empty for a weight that is not needed.

    The original codes ``<image>`` as -200, outside its vocabulary. Here it gets a row of zeros at the end of the
    embedding and of ``lm_head``. SAM's random position matrix is copied to both modules that use it.
    """
    renamed = rename_key(key)
    if renamed is None:
        return {}
    if renamed in (EMBEDDING, HEAD):
        return {renamed: torch.cat([tensor, torch.zeros_like(tensor[:1])])}
    if renamed == _PLACES:
        return {renamed: tensor, "sam.shared_image_embedding.positional_embedding": tensor.clone()}
    return {renamed: tensor}


def convert_state_dict(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the original layout, as ``convert_weight`` does."""
    return {name: weight for key, tensor in original.items() for name, weight in convert_weight(key, tensor).items()}


def llava_config(original: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """Make a ``LlavaConfig`` as a dict, from the original's flat LLaMA config and the config of the CLIP tower."""
    copied = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    ids = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    text = {key: original[key] for key in (*copied, *ids) if key in original}
    text |= {
        "model_type": "llama",
        "vocab_size": original["vocab_size"] + 1,
        "num_key_value_heads": original.get("num_key_value_heads", original["num_attention_heads"]),
    }
    return {
        "text_config": text,
        "vision_config": {
            **{name: value for name, value in vision.items() if name not in ("dtype", "torch_dtype")},
            "model_type": "clip_vision_model",
        },
        "image_token_index": original["vocab_size"],
        "image_seq_length": (vision["image_size"] // vision["patch_size"]) ** 2,
        "vision_feature_layer": original.get("mm_vision_select_layer", -2),
    }


def tower_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Make a ``CLIPVisionConfig`` as a dict, from the shapes of converted weights that hold the CLIP tower.

    The shapes show neither the number of heads nor the activation; the heads have 64 channels and the activation is
    ``quick_gelu``, as in the ViT-L/14 of the public checkpoints.
    """
    width, _, patch, _ = state[f"{TOWER}embeddings.patch_embedding.weight"].shape
    patches = state[f"{TOWER}embeddings.position_embedding.weight"].shape[0] - 1
    return {
        "hidden_size": width,
        "intermediate_size": state[f"{TOWER}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(state, f"{TOWER}encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "image_size": math.isqrt(patches) * patch,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
    }


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))


def sam_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Make a ``SamConfig`` as a dict, from the shapes of converted weights (the original stores no config).

    The shapes do not show the number of heads of the mask decoder; it is eight, as in SAM.
    """
    encoder = "sam.vision_encoder."
    hidden, _, patch, _ = state[f"{encoder}patch_embed.projection.weight"].shape
    grid = state[f"{encoder}pos_embed"].shape[1]
    layers = _layers(state, f"{encoder}layers.")
    reach = [(state[f"{encoder}layers.{index}.attn.rel_pos_h"].shape[0] + 1) // 2 for index in range(layers)]
    head = state[f"{encoder}layers.0.attn.rel_pos_h"].shape[1]
    width = state[f"{encoder}neck.conv1.weight"].shape[0]
    decoder = "sam.mask_decoder."
    return {
        "vision_config": {
            "hidden_size": hidden,
            "output_channels": width,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // head,
            "image_size": grid * patch,
            "patch_size": patch,
            "window_size": min(reach),
            "global_attn_indexes": [index for index, size in enumerate(reach) if size == grid],
            "mlp_dim": state[f"{encoder}layers.0.mlp.lin1.weight"].shape[0],
            "num_pos_feats": width // 2,
        },
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": state["sam.prompt_encoder.mask_embed.conv3.weight"].shape[1],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": state[f"{decoder}transformer.layers.0.mlp.lin1.weight"].shape[0],
            "iou_head_hidden_dim": state[f"{decoder}iou_prediction_head.proj_in.weight"].shape[0],
        },
    }
