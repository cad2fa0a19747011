"""Adapters: folders that hold what peft trained on top of a base model. Where they and their base models are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import Kind
from refiner.reading import read_text, reason_of
from refiner.repository import Repository

SETTINGS = "adapter_config.json"
MAX_BYTES = 1_000_000
"""Largest file of settings that is read."""

Place = TypeVar("Place", bound=Path | Repository)


def is_adapter(place: Path | Repository | None) -> bool:
    """Whether this is a folder of an adapter."""
    return isinstance(place, Path) and (place / SETTINGS).is_file()


def find_parts(
    model: str | Path, adapter: str | Path | None, find: Callable[[str | Path, Kind], Place]
) -> tuple[Place, Place | None]:
    """Find the base model and the adapter of a chat model.

    Args:
        model: id of the base model, or of an adapter whose settings name its base model.
        adapter: id of an adapter; None if there is none, or if ``model`` is one.
        find: finds the place of an id: ``refiner.hub.locate``, or ``resolve``, which downloads it.

    Returns:
        The base model, and the adapter or None. If ``find`` downloads nothing, an adapter on the hub is not known as
        one, and is returned as if it were a base model.

    Raises:
        ModelNotFoundError: one of them does not exist.
        WeightsError: ``adapter`` is none, its settings cannot be read, or its base model is another adapter.
        ConfigError: an adapter is given for a model that is one.
    """
    base = find(model, "detector")
    if adapter is not None:
        if is_adapter(base):
            raise ConfigError(
                f"{str(model)!r} is an adapter itself and takes no other one: give its base model with the adapter."
            )
        found = find(adapter, "detector")
        if isinstance(found, Path) and not is_adapter(found):
            raise WeightsError(f"{str(adapter)!r} is no adapter, because it holds no {SETTINGS}: check the path.")
        return base, found
    if not (isinstance(base, Path) and is_adapter(base)):
        return base, None
    name = base_name(base)
    try:
        below = find(name, "detector")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"The base model {name!r} of the adapter {str(model)!r} was not found: give the base model as the model "
            "and this folder as its adapter."
        ) from error
    if is_adapter(below):
        raise WeightsError(
            f"The base model {name!r} of the adapter {str(model)!r} is an adapter, too: merge it into its own base "
            "model with merge_and_unload of peft."
        )
    return below, base


def base_name(folder: Path) -> str:
    """The id of the base model of an adapter, with its revision."""
    settings = read_settings(folder / SETTINGS)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name.strip():
        raise WeightsError(
            f"The adapter {str(folder)!r} does not name its base model: give the base model as the model and this "
            "folder as its adapter."
        )
    pinned = isinstance(revision, str) and revision and "@" not in name and not Path(name).expanduser().is_dir()
    return f"{name}@{revision}" if pinned else name


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object from a small file of settings.

    Raises:
        WeightsError: the file is missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        settings = json.loads(read_text(path))
        if not isinstance(settings, dict):
            raise ValueError(f"expected a JSON object, got {settings!r:.80}")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"The settings {str(path)!r} cannot be read ({reason_of(error)}): download the folder again."
        ) from error
    return settings
