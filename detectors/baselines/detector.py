"""A classifier of real and generated images as a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from refiner.claims import region_of
from refiner.detectors.base import BaseDetector, first_line
from refiner.detectors.baselines.networks import Classifier, Explained
from refiner.detectors.baselines.views import VIEWS, Looked, look
from refiner.errors import BadAnswerError, ModelError
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Size

NAME: Final = "traces of generation"
EXPLANATION: Final = "the verdict that the image is generated rests mostly on this area"
THRESHOLD: Final = 0.5
"""An image is judged generated above this probability; a pixel is in a region above this heat."""


class ClassifierDetector(BaseDetector):
    """A classifier as a detector; a ``refiner.protocols.Detector``.

    Each analysis has a ``fake_probability`` and a ``heatmap`` of the class "generated", scaled by its largest value, 0
    outside the part of the image that the classifier sees. By default there are no regions: a classifier says that an
    image is generated, not what is wrong with it, and a loop that repaints where it looks would follow its noise. So it
    serves as a gate, as a judge, and in evaluations.

    With ``regions``, an image that is judged generated has one region for each connected part (8 neighbours) of the
    heat map above ``THRESHOLD``. Its ``score`` is the ``fake_probability``; its category ``texture`` is a stand-in and
    its severity the default. If the map is 0 everywhere, there is one unplaced region. The user's prompt is not used.

    Args:
        network: the classifier.
        name: id and revision.
        view: a name in ``VIEWS``: the part of the image that it sees.
        regions: whether the heat map is turned into regions.
    """

    batch_size = 8

    def __init__(self, network: Classifier, *, name: str, view: str, regions: bool = False) -> None:
        super().__init__(name=name)
        self.model, self.view, self.regions = network.eval().requires_grad_(False), VIEWS[view], regions

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``."""
        return True

    def to(self, device: str | torch.device) -> ClassifierDetector:
        """Move the network."""
        self.model.to(device)
        return self

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        looks = [look(image, self.view, round_down=self.model.round_down) for image in images]
        if len({seen.picture.size for seen in looks}) == 1:
            return self._analyses(looks)
        return [analysis for seen in looks for analysis in self._analyses([seen])]

    def _analyses(self, looks: Sequence[Looked]) -> list[Analysis]:
        """Analyse inputs of one size."""
        found = self._explained(looks)
        chances = found.logits.float().sigmoid().tolist()
        if not (found.logits.isfinite().all() and found.maps.isfinite().all()):
            raise BadAnswerError(f"Expected finite numbers from {self.name!r}, got NaN or infinity: try float32.")
        return [self._analysis(*each) for each in zip(looks, chances, found.maps, strict=True)]

    def _explained(self, looks: Sequence[Looked]) -> Explained:
        weight = next(self.model.parameters())
        pixels = torch.stack([seen.pixels(self.model.statistics) for seen in looks])
        try:
            with torch.inference_mode(False), torch.enable_grad():
                return self.model.explained(pixels.to(weight.device, weight.dtype))
        except RuntimeError as error:
            width, height = looks[0].picture.size
            raise ModelError(
                f"The network {self.name!r} failed on an image of {width}x{height} pixels ({first_line(error):.200}): "
                "check that the device has enough memory."
            ) from error

    def _analysis(self, seen: Looked, chance: float, values: torch.Tensor) -> Analysis:
        heat = seen.heat(values)
        regions = self._regions(heat, chance) if self.regions and chance > THRESHOLD else ()
        return Analysis(size=seen.image, regions=regions, fake_probability=chance, heatmap=heat, detector=self.name)

    def _regions(self, heat: NDArray[np.float32], chance: float) -> tuple[Region, ...]:
        labels, count = ndimage.label(heat > THRESHOLD, structure=np.ones((3, 3), dtype=np.int8))
        masks: list[Mask | None] = [labels == label for label in range(1, count + 1)]
        claim = Claim(name=NAME, explanation=EXPLANATION, category=Category.TEXTURE, score=chance)
        if not masks:
            claim, masks = Claim(name=NAME, category=Category.TEXTURE, score=chance), [None]
        return tuple(region_of(claim, mask, Size(*heat.shape)) for mask in masks)
