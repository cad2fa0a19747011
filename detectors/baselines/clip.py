"""CLIP's image encoder: from a folder or hub id of transformers, or from weights with the names of OpenAI's package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from refiner.detectors.base import check_complete, first_line, no_progress_bars, read_config
from refiner.detectors.baselines.files import fill
from refiner.errors import ConfigError, WeightsError
from refiner.hub import locate, verify
from refiner.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT: Final = "openai/clip-vit-large-patch14"
_TOPS: Final = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    **{f"ln_pre.{part}": f"vision_model.pre_layrnorm.{part}" for part in ("weight", "bias")},
    **{f"ln_post.{part}": f"vision_model.post_layernorm.{part}" for part in ("weight", "bias")},
}
_PARTS: Final = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_LAYER: Final = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_JOINED: Final = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


class _Tower(CLIPVisionModelWithProjection):
    """Folders of the whole CLIP hold its text encoder, too."""

    _keys_to_ignore_on_load_unexpected = (r"^text_model\.", r"^text_projection\.", r"^logit_scale$", r"position_ids$")


def find_tower(backbone: str) -> Path | Repository:
    """Find the folder or the hub model of an image encoder; nothing is downloaded.

    Raises:
        ModelNotFoundError: it is neither a folder nor a hub id.
    """
    return locate(backbone, "detector")


def load_tower(backbone: str) -> Any:
    """Load an image encoder with its projection, with eager attention and in float32.

    Args:
        backbone: a folder of transformers with CLIP or its image encoder, or a hub id.

    Raises:
        ModelNotFoundError: there is no such folder or hub model.
        WeightsError: it holds another model, or is incomplete or damaged.
    """
    place = find_tower(backbone)
    if isinstance(place, Repository):
        safe = any(name.endswith(".safetensors") for name in place.files or ("model.safetensors",))
        place = place.folder(["config.json", "*.safetensors*" if safe else "*.bin*"])
    kind = read_config(place).get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise WeightsError(f"Expected CLIP in {str(place)!r}, got a model of type {kind!r}: name another backbone.")
    verify(place)
    try:
        with no_progress_bars():
            tower, info = _Tower.from_pretrained(
                place, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The backbone {str(place)!r} cannot be loaded ({first_line(error)}): download it again."
        ) from error
    check_complete(place, info)
    return tower


def tower_of(
    state: Mapping[str, Tensor], path: Path, *, head_width: int = 64, activation: str = "quick_gelu"
) -> CLIPVisionModelWithProjection:
    """Build an image encoder from weights with OpenAI's names (``conv1.weight``, ``transformer.resblocks...``).

    Sizes follow from the shapes.

    Args:
        state: weights of the image encoder alone.
        path: their file, for messages.
        head_width: channels of an attention head. All of OpenAI's models have 64.
        activation: of the layers, in transformers' words. OpenAI's models have ``quick_gelu``.

    Raises:
        WeightsError: weights are missing, unexpected or of other shapes.
    """
    try:
        width, _, patch, _ = state["conv1.weight"].shape
        if width % head_width:
            raise ValueError(f"{width} channels do not make heads of {head_width}")
        places = state["positional_embedding"].shape[0] - 1
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            num_hidden_layers=1 + max(int(found[1]) for name in state if (found := _JOINED.fullmatch(name))),
            num_attention_heads=width // head_width,
            image_size=round(places**0.5) * patch,
            patch_size=patch,
            projection_dim=state["proj"].shape[1],
            hidden_act=activation,
            attn_implementation="eager",
        )
        tower = CLIPVisionModelWithProjection(config)
    except Exception as error:  # shapes of other networks may raise anything
        raise WeightsError(
            f"The weights in {str(path)!r} are not those of CLIP's image encoder ({first_line(error)}): name the file "
            "of this classifier."
        ) from error
    fill(tower, dict(_renamed(state)), path)
    return tower


def _renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of transformers; a name that is not known stays as it is."""
    for name, value in state.items():
        if name == "proj":
            yield "visual_projection.weight", value.T.contiguous()
        elif joined := _JOINED.fullmatch(name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                yield f"vision_model.encoder.layers.{joined[1]}.self_attn.{letter}_proj.{joined[2]}", part.clone()
        elif (layer := _LAYER.fullmatch(name)) and layer[2] in _PARTS:
            yield f"vision_model.encoder.layers.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}", value
        else:
            yield _TOPS.get(name, name), value


def check_width(given: int, wanted: int, path: Path, backbone: str) -> None:
    """Raise ``ConfigError`` if the head in a file takes ``given`` channels, and the backbone has ``wanted``."""
    if given != wanted:
        raise ConfigError(
            f"The head in {str(path)!r} takes {given} channels, but the backbone {backbone!r} has {wanted}: add "
            "',backbone=ID' with the CLIP model that the head was trained on to the id."
        )
