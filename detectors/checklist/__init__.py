"""Checklists: the statements of a prompt, checked on the image by any chat model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.chat.options import CHAT_OPTIONS
from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["FAMILY"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.checklist.detector import checklist_needs

    return checklist_needs(model)


FAMILY = Family(
    name="checklist",
    load=loader("refiner.detectors.checklist.detector:load_checklist"),
    options=("grounder", "parser", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_needs,
    usage=("checklist:<folder or hub id>", "checklist:<model>@<base url>"),
)
