"""AlignGemini (Chen et al. 2025): a semantic and a pixel branch that are trained apart (papers/aligngemini.md).

Three families of detectors: ``aligngemini`` fuses two branches, ``semantic`` and ``dda`` are its branches alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.aligngemini.config import EXPERT_TYPE, MODEL_TYPE
from refiner.detectors.aligngemini.notes import NOTE
from refiner.detectors.chat.options import CHAT_OPTIONS
from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["EXPERT", "FAMILY", "SEMANTIC"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.aligngemini.loading import aligngemini_needs

    return aligngemini_needs(model)


def _semantic_needs(model: ModelId) -> Needs:
    from refiner.detectors.aligngemini.loading import semantic_needs

    return semantic_needs(model)


def _expert_needs(model: ModelId) -> Needs:
    from refiner.detectors.aligngemini.loading import expert_needs

    return expert_needs(model)


FAMILY = Family(
    name="aligngemini",
    load=loader("refiner.detectors.aligngemini.loading:load_aligngemini"),
    recognise=lambda config, _folder: config.get("model_type") == MODEL_TYPE,
    options=("fusion", "grounder", "thresholds"),
    holds_ids=True,
    needs_folder=False,
    needs=_needs,
    usage=("aligngemini:<folder or hub id>", "aligngemini:<id>+<id>"),
)
SEMANTIC = Family(
    name="semantic",
    load=loader("refiner.detectors.aligngemini.loading:load_semantic"),
    recognise=lambda _config, folder: (folder / NOTE).is_file(),
    options=("grounder", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_semantic_needs,
    usage=("semantic:<folder or hub id>", "semantic:<model>@<base url>"),
)
EXPERT = Family(
    name="dda",
    load=loader("refiner.detectors.aligngemini.loading:load_expert"),
    recognise=lambda config, _folder: config.get("model_type") == EXPERT_TYPE,
    needs_folder=False,
    needs=_expert_needs,
    usage=("dda:<folder, hub id or published checkpoint>",),
)
