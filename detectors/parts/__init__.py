"""A detector of parts that are always regenerated: hands, faces, text, or other parts given by words."""

from refiner.detectors.family import Family, loader

__all__ = ["FAMILY"]

FAMILY = Family(
    name="parts",
    load=loader("refiner.detectors.parts.detector:load_parts"),
    options=("grounder",),
    needs_folder=False,
    usage=("parts:<names>@<model>",),
)
