"""Read the published weight file of a classifier, and put its weights into a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from refiner.detectors.base import first_line, placement
from refiner.detectors.baselines.detector import ClassifierDetector
from refiner.detectors.baselines.networks import Classifier
from refiner.detectors.weight_files import WeightFile
from refiner.errors import ConfigError, WeightsError
from refiner.hub import checksum

T = TypeVar("T", bound=nn.Module)

WEIGHTS: Final = WeightFile(what="the classifier's weight file", patterns=("*.pth", "*.pt", "*.safetensors", "*.bin"))
_WRAPPERS: Final = ("model", "state_dict")
"""Keys under which training scripts save the weights beside the state of the optimizer."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file by their names: safetensors, or a pickle of PyTorch that holds only tensors.

    Weights under ``model`` or ``state_dict`` are taken from there; ``module.`` before all names is removed.

    Raises:
        WeightsError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old pickles
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in _WRAPPERS:
            if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
        if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError("it holds something other than named tensors")
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"The weight file {str(path)!r} cannot be read ({first_line(error).rstrip('.'):.200}): download it again."
        ) from error
    names = list(map(str, loaded))
    prefix = "module." if names and all(name.startswith("module.") for name in names) else ""
    return {str(name).removeprefix(prefix): value for name, value in loaded.items()}


def unfilled(make: Callable[[], T]) -> T:
    """Make a network with weights of any values, which is fast; its buffers must be among the weights of its file."""
    with torch.device("meta"):
        network = make()
    return network.to_empty(device="cpu")


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network, name by name. Counters of batch normalisation may be missing.

    Raises:
        WeightsError: weights are missing, unexpected, or of another shape.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in wanted]
    if missing or surplus:
        raise WeightsError(
            f"The weights in {str(path)!r} do not fit {type(network).__name__} (missing {missing[:3]}, unexpected "
            f"{surplus[:3]}): name the file of this classifier."
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise WeightsError(
                f"Expected {name} of shape {tuple(wanted[name].shape)} in {str(path)!r}, got {tuple(value.shape)}: "
                "name the file of this classifier."
            )
    network.load_state_dict(dict(state), strict=False)


def assembled(
    network: Classifier,
    path: Path,
    *,
    name: str,
    view: str | None,
    regions: str | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> ClassifierDetector:
    """Make the detector of a network with its weights.

    Args:
        network: in float32.
        path: of its weight file.
        name: of its family and what else its answers depend on, such as ``cnnspot``.
        view: None for the first one of the network.
        regions: ``heatmap``, or None for no regions.
        device, dtype: as for ``load_detector``.

    Raises:
        ConfigError: the network has no such view, or there are no such regions.
    """
    chosen = check_options(network, view, regions)
    place, kind = placement(device, dtype)
    words = f"{name}:{path.stem}@{checksum(path)[:12]}"
    if chosen != network.views[0]:
        words += f",view={chosen}"
    return ClassifierDetector(network.to(place, kind), name=words, view=chosen, regions=regions is not None)


def check_options(network: Classifier | type[Classifier], view: str | None, regions: str | None) -> str:
    """The view that is meant; raises ``ConfigError`` if the network has no such view, or there are no such regions."""
    if view is not None and view not in network.views:
        raise ConfigError(f"Expected the view {' or '.join(network.views)}, got {view!r}: name one of these.")
    if regions not in (None, "heatmap"):
        raise ConfigError(f"Expected regions=heatmap, or no regions, got {regions!r}: change it, or leave it out.")
    return view or network.views[0]
