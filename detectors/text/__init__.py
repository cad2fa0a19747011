"""Wrong lettering: what an image says against the words that the prompt asks for, read by RapidOCR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["FAMILY"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.text.detector import text_needs

    return text_needs(model.model)


FAMILY = Family(
    name="text",
    load=loader("refiner.detectors.text.detector:load_text"),
    needs_folder=False,
    needs=_needs,
    usage=("text",),
)
