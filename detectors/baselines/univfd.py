"""UnivFD (Ojha et al., CVPR 2023, "Towards Universal Fake Image Detectors"): a linear layer on a frozen CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from refiner.detectors.baselines.clip import DEFAULT, check_width, find_tower, load_tower
from refiner.detectors.baselines.files import WEIGHTS, assembled, check_options, fill, read_state
from refiner.detectors.baselines.networks import ClipClassifier
from refiner.detectors.baselines.views import CLIP
from refiner.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.baselines.detector import ClassifierDetector
    from refiner.detectors.family import Needs


class UnivFd(ClipClassifier):
    """One linear layer on the features of a frozen CLIP. The heat map is the relevance of Chefer et al."""

    views = ("crop", "256-224")
    statistics = CLIP


def univfd_needs(model: str, backbone: str | None) -> Needs:
    """List the file and the backbone that ``load_univfd`` reads; raises its errors that are known before a download."""
    return [*WEIGHTS.needs(model), find_tower(backbone or DEFAULT)]


def load_univfd(
    model: str,
    *,
    backbone: str = DEFAULT,
    view: str | None = None,
    regions: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ClassifierDetector:
    """Load UnivFD's published weights, ``fc_weights.pth`` of the repository UniversalFakeDetect.

    The file holds ``weight`` (1, 768) and ``bias`` (1) of the linear layer on CLIP's projected class token, which is
    not normalised. As in the published validation, the centre 224x224 is cut out without resizing, a smaller image gets
    a black border, and values are normalised with CLIP's statistics.

    Args:
        model: the file, or a folder or hub id that holds it.
        backbone: folder or hub id of CLIP for transformers.
        view: ``crop`` or ``256-224``.
        regions: see ``ClassifierDetector``: ``heatmap``, or None for none.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file or backbone.
        WeightsError: the file is damaged, or of another network.
        ConfigError: an option is unknown, or the head does not fit the backbone.
    """
    check_options(UnivFd, view, regions)
    path = WEIGHTS.find(model)
    state = read_state(path)
    if state.keys() != {"weight", "bias"} or state["weight"].ndim != 2:
        raise WeightsError(
            f"Expected weight (1, channels) and bias of UnivFD's linear layer in {str(path)!r}, got "
            f"{sorted(state)[:3]}: name the file fc_weights.pth."
        )
    tower = load_tower(backbone)
    check_width(state["weight"].shape[1], tower.config.projection_dim, path, backbone)
    head = nn.Linear(tower.config.projection_dim, 1)
    fill(head, state, path)
    name = f"univfd[{backbone.rstrip('/').rpartition('/')[2] if Path(backbone).is_dir() else backbone}]"
    network = UnivFd(tower, head)
    return assembled(network, path, name=name, view=view, regions=regions, device=device, dtype=dtype)
