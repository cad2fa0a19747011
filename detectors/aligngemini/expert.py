"""The pixel branch: DDA's expert, which sees the traces that a generator's decoder leaves in pixels.

"Dual Data Alignment Makes AI-Generated Image Detector Easier Generalizable" (Chen et al., NeurIPS 2025), which
AlignGemini uses as its pixel branch (papers/aligngemini.md). Its weights are published as
``Junwei-Xi/Dual-Data-Alignment``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from refiner.claims import region_of
from refiner.detectors.aligngemini.config import ExpertConfig, read_expert_config
from refiner.detectors.aligngemini.modeling import Expert
from refiner.detectors.base import BaseDetector, first_line, identity
from refiner.errors import BadAnswerError, WeightsError
from refiner.files import atomic_write, dumps
from refiner.hub import verify
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACES: Final = "traces in the pixels"
EXPLANATION: Final = "the pixels look as if a generator's decoder had made them"
SEVERITY: Final = 0.3
"""People do not see these traces, so each region is less severe than a flaw whose severity is not known."""
THRESHOLD: Final = 0.5
"""A pixel belongs to a region if its relevance is at least this share of the highest one of the image."""
LEAST_SHARE: Final = 0.01
"""Connected parts below this share of what the expert sees are left out, unless all are."""
_WEIGHTS: Final = "model.safetensors"


class Window(NamedTuple):
    """The part of an image that the expert sees, and its place."""

    pixels: NDArray[np.uint8]
    """(side, side, 3), black where the image does not reach."""
    rows: tuple[slice, slice]
    """Rows of the image that are seen, and their place in ``pixels``."""
    columns: tuple[slice, slice]


class ExpertDetector(BaseDetector):
    """DDA's pixel expert; a ``refiner.protocols.Detector``.

    An image is never resized, because that would change what the expert looks for. It sees the central square of 336
    pixels; smaller images are surrounded by black, as in the authors' code. ``fake_probability`` is the network's.
    ``heatmap`` is the relevance of each patch (Chefer et al., ICCV 2021) for "generated", divided by its maximum, and 0
    outside the square.

    If the probability is above 0.5, the connected parts of the heat map above ``THRESHOLD`` are regions, with the
    probability as ``score``. They say only where the evidence is: their category ``texture`` is a stand-in. The user's
    prompt is not used.

    Args:
        network: the network.
        name: id and revision.
        domain: "micro" for an expert that knows only the micro world and must refuse other images; else "".
    """

    batch_size = 4
    decides = True

    def __init__(self, network: Expert, *, name: str, domain: str = "") -> None:
        super().__init__(name=name, domain=domain)
        self.model = network.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> ExpertDetector:
        """Load a folder of ``save_pretrained``; ``device`` and ``dtype`` are as for ``load_detector``.

        Raises:
            WeightsError: the folder is of another kind, incomplete or damaged.
        """
        root = Path(folder)
        config = read_expert_config(root)
        if (root / "card.json").exists():  # a branch of an AlignGemini is in the card of the whole
            verify(root)
        try:
            network = built(config, load_file(root / _WEIGHTS))
        except Exception as error:  # damaged files may raise anything
            raise WeightsError(
                f"The pixel expert {str(root)!r} cannot be loaded ({first_line(error):.300}): install it again."
            ) from error
        return cls(network.to(device=device, dtype=dtype), **identity(root, "dda")._asdict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Save config and weights (safetensors); ``from_pretrained`` loads them."""
        save_expert(self.model, Path(folder))

    def to(self, device: str | torch.device) -> ExpertDetector:
        """Move the network."""
        self.model.to(device)
        return self

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        side = self.model.config.side
        windows = [window(image, side) for image in images]
        weight = self.model.head.weight
        pixels = normalised([each.pixels for each in windows], self.model.config)
        logits, maps = self.model.explained(pixels.to(weight.device, weight.dtype))
        chances = logits.sigmoid().cpu()
        if not bool(chances.isfinite().all()):
            raise BadAnswerError(f"Expected finite numbers from {self.name!r}, got NaN: try float32.")
        large = functional.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0].clamp(0, 1).cpu()
        rows = zip(images, windows, chances.tolist(), large.numpy(), strict=True)
        return [self._analysis(*row) for row in rows]

    def _analysis(self, image: Image.Image, seen: Window, chance: float, heat: NDArray[np.float32]) -> Analysis:
        size = Size(image.height, image.width)
        heatmap = np.zeros(tuple(size), dtype=np.float32)
        (rows, inner_rows), (columns, inner_columns) = seen.rows, seen.columns
        heatmap[rows, columns] = heat[inner_rows, inner_columns]
        parts = _parts(heatmap, LEAST_SHARE * heat[inner_rows, inner_columns].size) if chance > 0.5 else ()
        return Analysis(
            size=size,
            regions=tuple(_region(part, chance, size) for part in parts),
            fake_probability=chance,
            heatmap=heatmap,
            detector=self.name,
        )


def built(config: ExpertConfig, state: dict[str, Tensor]) -> Expert:
    """The network of a state, without computing random weights first."""
    with torch.device("meta"):
        network = Expert(config)
    network.load_state_dict(state, assign=True)
    return network


def save_expert(network: Expert, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write config and weights; ``dtype`` None keeps that of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: weight.detach().cpu().to(dtype or weight.dtype) for name, weight in network.state_dict().items()}
    save_file({name: weight.contiguous() for name, weight in state.items()}, folder / _WEIGHTS)
    atomic_write(folder / "config.json", dumps(network.config.document) + "\n")


def window(image: Image.Image, side: int) -> Window:
    """The central square of ``side`` pixels of an RGB image, with black around a smaller image.

    Offsets are rounded as torchvision's ``CenterCrop`` does.
    """
    rows, columns = _span(image.height, side), _span(image.width, side)
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[rows[1], columns[1]] = np.asarray(image)[rows[0], columns[0]]
    return Window(pixels, rows, columns)


def _span(length: int, side: int) -> tuple[slice, slice]:
    if length < side:
        start = (side - length) // 2
        return slice(0, length), slice(start, start + length)
    start = round((length - side) / 2)
    return slice(start, start + side), slice(0, side)


def normalised(pictures: Sequence[NDArray[np.uint8]], config: ExpertConfig) -> Tensor:
    """Pixels, uint8 (H, W, 3) each, as the network takes them: float32 (N, 3, H, W)."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (pixels - mean) / std


def _parts(heat: NDArray[np.float32], least: float) -> Iterator[Mask]:
    """The connected parts of a heat map above ``THRESHOLD``, largest first."""
    labels, count = ndimage.label(heat >= THRESHOLD, structure=np.ones((3, 3), dtype=np.int8))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order: list[Any] = np.argsort(-areas, kind="stable").tolist()
    kept = [place for place in order if areas[place] >= least] or order[:1]
    return (labels == place + 1 for place in kept)


def _region(mask: Mask, chance: float, size: Size) -> Region:
    claim = Claim(name=TRACES, explanation=EXPLANATION, category=Category.TEXTURE, severity=SEVERITY, score=chance)
    return region_of(claim, mask, size)
