"""Image encoders in open_clip's layout, such as those of LAION's CLIP and of HPS v2, as backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file
from torch import Tensor

from refiner.detectors.base import first_line
from refiner.detectors.baselines.clip import tower_of
from refiner.errors import WeightsError

OPEN_CLIP: Final = "open_clip"
CONFIG: Final = "open_clip_config.json"
_WEIGHTS: Final = "open_clip_model.safetensors"
_UNSUPPORTED: Final = ("timm_model_name", "attentional_pool", "ls_init_value", "no_ln_pre", "pos_embed_type")
"""Fields of open_clip's ``vision_cfg`` for networks that are not CLIP's."""


def read_tower(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights in float32 with the names of transformers, config and image size of an image encoder.

    Raises:
        WeightsError: it is no vision transformer of CLIP's kind, incomplete or damaged.
    """
    path = folder / _WEIGHTS
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        vision = config["vision_cfg"]
        other = [name for name in _UNSUPPORTED if vision.get(name)]
        if other or not isinstance(vision["layers"], int):
            raise ValueError(f"its vision_cfg has {', '.join(other) or 'layers of a ResNet'}")
        head_width = int(vision.get("head_width", 64))
        loaded = load_file(path)
    except Exception as error:  # damaged files may raise anything
        raise WeightsError(
            f"Expected open_clip's files of a CLIP vision transformer in {str(folder)!r} ({first_line(error)}): choose "
            "another base."
        ) from error
    state = {
        name.removeprefix("visual."): value.float() for name, value in loaded.items() if name.startswith("visual.")
    }
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    tower = tower_of(state, path, head_width=head_width, activation=activation)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    values = {name: getattr(tower.config, name) for name in (*sizes, "hidden_act")}
    weights = tower.vision_model.state_dict()
    return weights, {**values, "model_type": "clip_vision_model"}, int(values["image_size"])
