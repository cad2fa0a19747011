"""The two layouts of LEGION folders, recognised by their config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MODEL_TYPE: Final = "refiner_legion"
"""``model_type`` in the config of refiner's own layout."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a config was written by ``LegionDetector.save_pretrained``."""
    return config.get("model_type") == MODEL_TYPE


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config is the flat config of the public LEGION / GLaMM checkpoints."""
    return "mm_vision_tower" in config and "out_dim" in config
