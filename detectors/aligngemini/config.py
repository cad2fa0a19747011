"""The settings of AlignGemini and of its pixel expert, and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from refiner.detectors.aligngemini.fusion import Fusion
from refiner.detectors.base import read_config
from refiner.errors import ConfigError, WeightsError
from refiner.files import Json

MODEL_TYPE: Final = "aligngemini"
"""``model_type`` in the ``config.json`` of a folder with both branches."""
EXPERT_TYPE: Final = "dda"
"""``model_type`` in the ``config.json`` of a pixel expert."""
BRANCHES: Final = ("semantic", "pixel")
"""The branches, and the names of their sub-folders."""
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, per RGB channel of values in [0, 1]; DDA uses them although its backbone is DINOv2."""


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Settings of a pixel expert; saved with its weights."""

    backbone: Mapping[str, Any]
    """Settings of transformers' ``Dinov2Config``."""
    side: int = 336  # height and width of the part of an image that it sees, in pixels
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @property
    def document(self) -> Json:
        """The content of ``config.json``."""
        return {"model_type": EXPERT_TYPE, **asdict(self), "backbone": dict(self.backbone)}


def read_expert_config(folder: Path) -> ExpertConfig:
    """Read the ``config.json`` of a pixel expert.

    Raises:
        WeightsError: it is missing, or of something else.
    """
    document = read_config(folder)
    try:
        if document.pop("model_type") != EXPERT_TYPE:
            raise ValueError(f"its model_type is not {EXPERT_TYPE}")
        config = ExpertConfig(**document)
        sides, channels = (config.side,), (tuple(map(float, each)) for each in (config.mean, config.std))
        if not all(type(side) is int and side > 0 for side in sides) or not isinstance(config.backbone, dict):
            raise ValueError(f"side {config.side!r} and backbone {config.backbone!r:.80}")
        mean, std = channels
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std}")
        return ExpertConfig(backbone=config.backbone, side=config.side, mean=mean, std=std)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{str(folder / 'config.json')!r} is no config of a pixel expert ({error}): download the folder again."
        ) from error


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What the ``config.json`` of an AlignGemini says."""

    branches: Mapping[str, str]
    """Branch -> its sub-folder; a folder may hold one branch alone."""
    fusion: Fusion = field(default_factory=Fusion)

    @property
    def document(self) -> Json:
        """The content of ``config.json``."""
        thresholds = None if self.fusion.thresholds is None else list(self.fusion.thresholds)
        return {"model_type": MODEL_TYPE, **self.branches, "fusion": self.fusion.name, "thresholds": thresholds}


def read_pair_config(folder: Path) -> PairConfig:
    """Read the ``config.json`` of an AlignGemini.

    Raises:
        WeightsError: it is missing, or of something else, or names no sub-folder that exists.
    """
    document = read_config(folder)
    try:
        if document.get("model_type") != MODEL_TYPE:
            raise ValueError(f"its model_type is not {MODEL_TYPE}")
        named = {branch: document[branch] for branch in BRANCHES if document.get(branch) is not None}
        for branch, name in named.items():
            if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_dir():
                raise ValueError(f"its {branch} branch is {name!r:.80}, which is no folder in it")
        if not named:
            raise ValueError("it names no branch")
        thresholds = document.get("thresholds")
        pair = None if thresholds is None else (float(thresholds[0]), float(thresholds[1]))
        return PairConfig(branches=named, fusion=Fusion(str(document.get("fusion", "or")), pair))
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{str(folder / 'config.json')!r} is no config of an AlignGemini ({error}): download the folder again."
        ) from error
