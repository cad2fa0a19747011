"""DRCT (Chen et al., ICML 2024, "Diffusion Reconstruction Contrastive Training"): ConvNeXt-B, or CLIP ViT-L/14.

The backbone ends in an embedding, on which the contrastive loss was, and two linear scores of it, real and generated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from refiner.detectors.baselines.clip import tower_of
from refiner.detectors.baselines.files import WEIGHTS, assembled, fill, read_state
from refiner.detectors.baselines.networks import ClipClassifier, ConvolutionalClassifier, generated
from refiner.detectors.baselines.views import IMAGENET
from refiner.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.baselines.detector import ClassifierDetector

_BLOCK: Final = re.compile(r"model\.stages\.(\d+)\.blocks\.(\d+)\.gamma")
_CLIP: Final = "model.model."
_TOWER: Final = f"{_CLIP}visual."
_HEAD: Final = {
    "model.fc.weight": "0.weight", "model.fc.bias": "0.bias", "fc.weight": "1.weight", "fc.bias": "1.bias",
}  # fmt: skip


class DrctConv(ConvolutionalClassifier):
    """timm's ConvNeXt with an embedding. Grad-CAM is that of the last stage.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        embedding: length of the embedding.
        classes: number of scores; the first one is that of "real".
    """

    views = ("crop", "256-224")
    statistics = IMAGENET
    round_down = True

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], embedding: int, classes: int) -> None:
        super().__init__()
        self.model: Any = ConvNeXt(depths=depths, dims=widths, num_classes=embedding)
        self.fc = nn.Linear(embedding, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """The last stage, (N, channels, H / 32, W / 32)."""
        found: Tensor = self.model.forward_features(pixels)
        return found

    def judge(self, features: Tensor) -> Tensor:
        """The logits."""
        return generated(self.fc(self.model.forward_head(features)))


class DrctClip(ClipClassifier):
    """CLIP's image encoder with an embedding. The heat map is the relevance of Chefer et al."""

    views = ("crop", "256-224")
    statistics = IMAGENET
    round_down = True


def load_drct(
    model: str,
    *,
    view: str | None = None,
    regions: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ClassifierDetector:
    """Load weights in the published layouts of DRCT, of either backbone; the names in the file say which.

    A file for ConvNeXt holds timm's names after ``model.``, one for CLIP OpenAI's names after ``model.model.`` (the
    text encoder is not used) and the embedding as ``model.fc``; both have the scores as ``fc``. The sizes of the
    network follow from the shapes. As in the published validation, the centre 224x224 is cut out without resizing, a
    smaller image gets a black border, and values are normalised with ImageNet's statistics, for CLIP too.

    Args:
        model: the file, or a folder or hub id that holds it.
        view: ``crop`` or ``256-224``.
        regions: see ``ClassifierDetector``: ``heatmap``, or None for none.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file is damaged, or of another network.
        ConfigError: an option is unknown.
    """
    path = WEIGHTS.find(model)
    state = read_state(path)
    try:
        network = _clip(state, path) if f"{_TOWER}conv1.weight" in state else _convnext(state, path)
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise WeightsError(
            f"Expected the weights of DRCT (ConvNeXt or CLIP with an embedding) in {str(path)!r}, got those of another "
            f"network ({error!r}): name another file."
        ) from error
    return assembled(network, path, name="drct", view=view, regions=regions, device=device, dtype=dtype)


def _convnext(state: Mapping[str, Tensor], path: Path) -> DrctConv:
    blocks = [(int(found[1]), int(found[2])) for name in state if (found := _BLOCK.fullmatch(name))]
    stages = range(1 + max(stage for stage, _ in blocks))
    depths = tuple(1 + max(number for stage, number in blocks if stage == each) for each in stages)
    widths = tuple(state[f"model.stages.{stage}.blocks.0.gamma"].shape[0] for stage in stages)
    classes, embedding = state["fc.weight"].shape
    network = DrctConv(depths, widths, embedding, classes)
    fill(network, state, path)
    return network


def _clip(state: Mapping[str, Tensor], path: Path) -> DrctClip:
    tower = tower_of(
        {name.removeprefix(_TOWER): value for name, value in state.items() if name.startswith(_TOWER)}, path
    )
    classes, embedding = state["fc.weight"].shape
    head = nn.Sequential(nn.Linear(tower.config.projection_dim, embedding), nn.Linear(embedding, classes))
    others = {_HEAD.get(name, name): value for name, value in state.items() if not name.startswith(_CLIP)}
    fill(head, others, path)
    return DrctClip(tower, head)
