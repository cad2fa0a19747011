"""NPR (Tan et al., CVPR 2024, "Rethinking the Up-Sampling Operations in CNN-based Generative Network")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from torchvision.models import resnet50

from refiner.detectors.baselines.files import WEIGHTS, assembled, fill, read_state, unfilled
from refiner.detectors.baselines.networks import ConvolutionalClassifier
from refiner.detectors.baselines.views import IMAGENET

if TYPE_CHECKING:
    import torch

    from refiner.detectors.baselines.detector import ClassifierDetector


class Npr(ConvolutionalClassifier):
    """What differs between neighbouring pixels, through the first half of a ResNet-50.

    Each pixel becomes its difference to the upper left one of its 2x2 block, times 2/3. The first convolution has 3x3
    weights; after the second stage come the mean over all places and one linear layer. Of an image with an odd height
    or width, the last row or column is left out, since it has no whole blocks. Grad-CAM is that of the second stage.
    """

    views = ("256", "whole", "256-224")
    statistics = IMAGENET

    def __init__(self) -> None:
        super().__init__()
        body: Any = resnet50(num_classes=1)
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1, self.layer1, self.layer2 = body.bn1, body.layer1, body.layer2
        self.fc1 = nn.Linear(512, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """The second stage, (N, 512, H / 8, W / 8)."""
        height, width = (side - side % 2 for side in pixels.shape[2:])
        even = pixels[..., :height, :width]
        corners = even[..., ::2, ::2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        hidden = relu(self.bn1(self.conv1((even - corners) * 2 / 3)))
        found: Tensor = self.layer2(self.layer1(max_pool2d(hidden, 3, stride=2, padding=1)))
        return found

    def judge(self, features: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.fc1(features.mean(dim=(2, 3)))
        return logits[:, 0]


def load_npr(
    model: str,
    *,
    view: str | None = None,
    regions: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ClassifierDetector:
    """Load NPR's published weights, ``NPR.pth`` of the repository NPR-DeepfakeDetection.

    The file holds the state dict of the network (``conv1``, ``bn1``, ``layer1``, ``layer2``, ``fc1``). Values are
    normalised with ImageNet's statistics.

    Args:
        model: the file, or a folder or hub id that holds it.
        view: ``256``: resized to 256x256, as the published test does with images of several sizes, ``whole``: not
            resized, as it does with images of one size, or ``256-224``.
        regions: see ``ClassifierDetector``: ``heatmap``, or None for none.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file is damaged, or of another network.
        ConfigError: an option is unknown.
    """
    path, network = WEIGHTS.find(model), unfilled(Npr)
    fill(network, read_state(path), path)
    return assembled(network, path, name="npr", view=view, regions=regions, device=device, dtype=dtype)
