"""The description that each detector package exports, so that one row in the registry is enough to add it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.ids import ModelId
    from refiner.protocols import Detector
    from refiner.repository import Repository

    Needs = Sequence[Path | Repository]
    Load = Callable[[ModelId, str | torch.device | None, torch.dtype | None], Detector]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Detectors of one kind. A package exports its family as ``FAMILY``. Importing the package does not import torch.

    Raises:
        ConfigError: the name has characters other than letters, digits and underscores.
    """

    name: str
    """The prefix of its ids, and ``family`` in the ``card.json`` of its folders."""
    load: Load
    """load(id, device, dtype) -> the detector; ``id.model`` is a folder if ``needs_folder`` is set."""
    recognise: Callable[[Mapping[str, Any], Path], bool] = lambda _config, _folder: False
    """recognise(config, folder): whether a folder without a card belongs to this family. ``config`` is the folder's
    ``config.json``; it is empty if the file is missing."""
    options: tuple[str, ...] = ()
    """Options that its ids may have, as ``,option=value``; ``grounder`` is the option for masks."""
    endpoint: bool = False
    """Whether the model may run behind an endpoint: ``<name>:<model>@<base url>``."""
    holds_ids: bool = False
    """Whether its ids may hold those of other detectors, whose options stay with them."""
    needs_folder: bool = True
    """Whether its ids name a folder, a hub id or a bundled model. If not, just the family's name is an id too."""
    needs: Callable[[ModelId], Needs] | None = None
    """needs(id) -> the folders and hub models that ``load`` reads. It downloads nothing, and raises the errors of
    ``load`` that are known without a download. None: only ``id.model`` if ``needs_folder`` is set, else nothing."""
    usage: tuple[str, ...] = ()
    """The forms of its ids, for messages; empty for ``<name>:<folder or hub id>``."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"Family.name must be letters, digits and underscores, got {self.name!r}.")


def loader(home: str) -> Load:
    """Make a ``Family.load`` that imports a function, given as ``module:name``, when a detector is loaded.

    The function gets the model's name, and as keywords ``base_url`` (if the id has one), the options, device and dtype.
    """

    def load(model: ModelId, device: str | torch.device | None, dtype: torch.dtype | None) -> Detector:
        module, _, name = home.partition(":")
        address = {} if model.base_url is None else {"base_url": model.base_url}
        make = attrgetter(name)(importlib.import_module(module))
        found: Detector = make(model.model, **address, **model.options, device=device, dtype=dtype)
        return found

    return load
