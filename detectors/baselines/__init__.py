"""Classifiers of real and generated images that papers compare with: CNNSpot, NPR, UnivFD and DRCT.

Each gives the probability that an image is generated, and a heat map of that class: X-AIGD's baselines (arXiv
2601.19430). They say nothing about flaws, so they have no regions unless the id asks for ``regions=heatmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["CNNSPOT", "DRCT", "NPR", "UNIVFD"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.baselines.files import WEIGHTS

    return WEIGHTS.needs(model.model)


def _univfd_needs(model: ModelId) -> Needs:
    from refiner.detectors.baselines.univfd import univfd_needs

    return univfd_needs(model.model, model.options.get("backbone"))


def _family(
    name: str, *published: str, options: Sequence[str] = (), files: str, needs: Callable[[ModelId], Needs] = _needs
) -> Family:
    """The family of a classifier; a folder with one of its published files is recognised."""
    return Family(
        name=name,
        load=loader(f"refiner.detectors.baselines.{name}:load_{name}"),
        recognise=lambda _config, folder: any((folder / file).is_file() for file in published),
        options=("view", "regions", *options),
        needs_folder=False,
        needs=needs,
        usage=(f"{name}:<{files}, or its folder or hub id>",),
    )


CNNSPOT = _family("cnnspot", "blur_jpg_prob0.1.pth", "blur_jpg_prob0.5.pth", files="weight file of CNNDetection")
NPR = _family("npr", "NPR.pth", files="weight file of NPR")
UNIVFD = _family(
    "univfd", "fc_weights.pth", options=("backbone",), files="fc_weights.pth of UnivFD", needs=_univfd_needs
)
DRCT = _family("drct", files="weight file of DRCT")
