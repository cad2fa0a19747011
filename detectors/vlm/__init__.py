"""Detectors that use any vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refiner.detectors.aligngemini.notes import NOTE as ALIGNGEMINI
from refiner.detectors.anomreason.notes import NOTE as ANOMREASON
from refiner.detectors.chat.options import CHAT_OPTIONS
from refiner.detectors.fakexplain.notes import NOTE as FAKEXPLAIN
from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId
    from refiner.detectors.vlm.detector import VlmDetector

__all__ = ["FAMILY", "VlmDetector"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.vlm.detector import vlm_needs

    return vlm_needs(model)


FAMILY = Family(
    name="vlm",
    load=loader("refiner.detectors.vlm.detector:load_vlm"),
    recognise=lambda config, folder: (
        config.get("model_type") in ("qwen2_5_vl", "qwen3_vl")
        and not any((folder / note).is_file() for note in (ALIGNGEMINI, ANOMREASON, FAKEXPLAIN))
    ),
    options=("grounder", "profile", "instruction", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_needs,
    usage=("vlm:<folder or hub id>", "vlm:<model>@<base url>", "vlm:<model>,profile=<name or file>"),
)


def __getattr__(name: str) -> Any:
    """Import ``VlmDetector``, and torch with it, only when it is used."""
    if name != "VlmDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refiner.detectors.vlm.detector import VlmDetector

    return VlmDetector
