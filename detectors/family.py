"""What a package of detectors says of itself, so that one row of the registry is all that it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.protocols import Detector

    Load = Callable[[ModelId, str | torch.device | None, torch.dtype | None], Detector]


def _never(_config: Mapping[str, Any], _folder: Path) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Family:
    """Detectors of one kind. A package exports its own as ``FAMILY``, and importing the package loads no torch.

    Raises:
        ConfigError: the name has signs that ids use.
    """

    name: str
    """The prefix of its ids, and ``family`` in the ``card.json`` of its folders."""
    load: Load
    """load(id, device, dtype) -> the detector; ``id.model`` is a folder where ``needs_folder``."""
    recognise: Callable[[Mapping[str, Any], Path], bool] = _never
    """recognise(config, folder): whether a folder without a card is one of its own. ``config`` is the folder's
    ``config.json``, empty where there is none."""
    options: tuple[str, ...] = ()
    """Options that may stand behind its ids as ``,option=value``; ``grounder`` is the one for masks."""
    endpoint: bool = False
    """Whether the model may stand behind an endpoint: ``<name>:<model>@<base url>``."""
    needs_folder: bool = True
    """Whether its ids name a folder, a hub id or a bundled model. If not, its name alone is an id too."""
    usage: tuple[str, ...] = ()
    """How its ids are written, for messages; empty for ``<name>:<folder or hub id>``."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"Family.name must be letters, digits and underscores, got {self.name!r}.")

    @property
    def ids(self) -> tuple[str, ...]:
        """How its ids are written."""
        return self.usage or (f"{self.name}:<folder or hub id>",)


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that imports what the package exports when it is first asked for.

    Args:
        package: for messages.
        homes: exported name -> module.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return find
