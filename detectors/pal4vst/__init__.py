"""PAL4VST (Zhang et al., ICCV 2023): perceptual artifacts as a mask, from a network in TorchScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["FAMILY"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.pal4vst.loading import pal4vst_needs

    return pal4vst_needs(model.model)


FAMILY = Family(
    name="pal4vst",
    load=loader("refiner.detectors.pal4vst.loading:load_pal4vst"),
    recognise=lambda _config, folder: (folder / "end2end.pt").is_file(),
    options=("output",),
    needs_folder=False,
    needs=_needs,
    usage=("pal4vst:<TorchScript file, or its folder or hub id>",),
)
