"""A detector of parts that are always regenerated: hands, faces, text, or other parts given by words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["FAMILY"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.parts.detector import parts_needs

    return parts_needs(model)


FAMILY = Family(
    name="parts",
    load=loader("refiner.detectors.parts.detector:load_parts"),
    options=("grounder",),
    needs_folder=False,
    needs=_needs,
    usage=("parts:<names>@<model>",),
)
