"""PAL4VST: a segmentation network that marks perceptual artifacts, as a detector.

"Perceptual Artifacts Localization for Image Synthesis Tasks" (Zhang et al., ICCV 2023) publishes a Swin-L UPerNet as
one TorchScript file. LEGION compares with it in its Tables 2 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from refiner.claims import region_of
from refiner.data.raster import resize_nearest
from refiner.detectors.base import BaseDetector
from refiner.errors import BadAnswerError, ModelError
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE: Final = 512
"""Height and width of the network's input and output."""
MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)
"""ImageNet's, per RGB channel in units of 0 to 255."""
OUTPUTS: Final = ("mask", "logits")
LEAST_SHARE: Final = 0.001
"""Connected parts below this share of the image have no region of their own."""
NAME: Final = "perceptual artifact"
SPECKS: Final = "small perceptual artifacts"


class Pal4vstDetector(BaseDetector):
    """A segmentation network of perceptual artifacts; a ``refiner.protocols.Detector``.

    The image is scaled to 512x512 pixels and the mask back to the image, with nearest neighbours. Each connected part
    (8 neighbours) of at least ``LEAST_SHARE`` of the image is a region; the smaller ones are one region together, so
    that the regions cover the network's mask exactly. The network says only where an artifact is. So a region has a
    generic name and no explanation; its category ``texture`` is a stand-in and its severity the default.

    A region's ``score`` is its mean probability if the network gives probabilities, which are then the ``heatmap``, and
    1 if it gives a mask of 0 and 1. ``fake_probability`` is None. The user's prompt is not used.

    Args:
        network: float (1, 3, 512, 512), normalised by ``MEAN`` and ``STD`` -> (1, 1, 512, 512).
        name: id and revision.
        output: ``mask`` for a network that gives 0 and 1, or probabilities; ``logits`` for one that gives these.
    """

    def __init__(self, network: torch.nn.Module, *, name: str, output: str = "mask") -> None:
        super().__init__(name=name)
        self.model, self.output = network.eval(), output

    def to(self, device: str | torch.device) -> Pal4vstDetector:
        """Move the network."""
        self.model.to(device)
        return self

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        return [self._analysis(image) for image in images]

    def _analysis(self, image: Image.Image) -> Analysis:
        values, size = self._values(image), Size(image.height, image.width)
        soft = not np.isin(values, (0, 1)).all()
        heat = _scaled(values, size) if soft else None
        mask = resize_nearest(values > 0.5, size)
        regions = tuple(_region(name, part, heat, size) for name, part in _parts(mask))
        return Analysis(size=size, regions=regions, heatmap=heat, detector=self.name)

    @torch.inference_mode()
    def _values(self, image: Image.Image) -> NDArray[np.float32]:
        """The network's probabilities, float32 (512, 512) in [0, 1]."""
        weight = next((each for each in self.model.parameters() if each.is_floating_point()), torch.zeros(()))
        pixels = torch.from_numpy(np.array(image.resize((SIDE, SIDE)), dtype=np.float32)).to(weight.device)
        normal = (pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)
        try:
            found = self.model(normal.permute(2, 0, 1)[None].to(weight.dtype))
        except RuntimeError as error:
            raise ModelError(
                f"The network {self.name!r} failed on an image of {SIDE}x{SIDE} pixels ({_reason(error)}): check that "
                "the file is PAL4VST's and that the device has enough memory."
            ) from error
        return self._checked(found)

    def _checked(self, found: Any) -> NDArray[np.float32]:
        shape = (1, 1, SIDE, SIDE)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.is_complex():
            told = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BadAnswerError(
                f"Expected a map of real numbers of shape {shape} from {self.name!r}, got {told}: check that the file "
                "is PAL4VST's."
            )
        values = found[0, 0].float()
        if not bool(values.isfinite().all()):
            raise BadAnswerError(f"Expected finite numbers from {self.name!r}, got NaN or infinity: try float32.")
        if self.output == "logits":
            values = values.sigmoid()
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            raise BadAnswerError(
                f"Expected values from 0 to 1 from {self.name!r}, got {low:g} to {high:g}: if these are logits, add "
                "',output=logits' to the id."
            )
        return values.cpu().numpy()


def _reason(error: RuntimeError) -> str:
    """The last line of an error of TorchScript, which stands below its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".")[:200]


def _scaled(values: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    heat = functional.interpolate(torch.from_numpy(values)[None, None], size=size, mode="bilinear")[0, 0]
    return heat.clamp(0, 1).numpy()


def _parts(mask: Mask) -> Iterator[tuple[str, Mask]]:
    """Name and mask of each large connected part, largest first, then of all small ones together."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = [at + 1 for at in np.argsort(-areas, kind="stable") if areas[at] >= LEAST_SHARE * mask.size]
    yield from ((NAME, labels == label) for label in large)
    rest = mask & ~np.isin(labels, large)
    if rest.any():
        yield SPECKS, rest


def _region(name: str, mask: Mask, heat: NDArray[np.float32] | None, size: Size) -> Region:
    score = 1.0 if heat is None else float(heat[mask].mean())
    return region_of(Claim(name=name, category=Category.TEXTURE, score=score), mask, size)
