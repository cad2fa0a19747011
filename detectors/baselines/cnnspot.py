"""CNNSpot (Wang et al., CVPR 2020, "CNN-generated images are surprisingly easy to spot... for now"): a ResNet-50."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchvision.models import resnet50

from refiner.detectors.baselines.files import WEIGHTS, assembled, fill, read_state, unfilled
from refiner.detectors.baselines.networks import ConvolutionalClassifier
from refiner.detectors.baselines.views import IMAGENET

if TYPE_CHECKING:
    import torch

    from refiner.detectors.baselines.detector import ClassifierDetector


class CnnSpot(ConvolutionalClassifier):
    """A ResNet-50 with one logit. Grad-CAM is that of the fourth stage."""

    views = ("whole", "crop", "256-224")
    statistics = IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = resnet50(num_classes=1)

    def features(self, pixels: Tensor) -> Tensor:
        """The fourth stage, (N, 2048, H / 32, W / 32)."""
        net = self.network
        hidden = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
        found: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(hidden))))
        return found

    def judge(self, features: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.network.fc(self.network.avgpool(features).flatten(1))
        return logits[:, 0]


def load_cnnspot(
    model: str,
    *,
    view: str | None = None,
    regions: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ClassifierDetector:
    """Load CNNSpot's published weights, such as ``blur_jpg_prob0.5.pth`` of the repository CNNDetection.

    The file holds a state dict of torchvision's ResNet-50 with one output under ``model``. Images are not resized, and
    normalised with ImageNet's statistics.

    Args:
        model: the file, or a folder or hub id that holds it.
        view: ``whole`` (as the repository's demo, and recommended there), ``crop``: the centre 224x224, as in the
            paper's tables, or ``256-224``.
        regions: see ``ClassifierDetector``: ``heatmap``, or None for none.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file is damaged, or of another network.
        ConfigError: an option is unknown.
    """
    path, network = WEIGHTS.find(model), unfilled(CnnSpot)
    fill(network.network, read_state(path), path)
    return assembled(network, path, name="cnnspot", view=view, regions=regions, device=device, dtype=dtype)
