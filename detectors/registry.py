"""From the id of a detector to the detector.

The family of a detector is the prefix of its id; else what the folder's ``card.json`` names; else the one family whose
``recognise`` knows the folder. Other packages add families by an entry point of group ``refiner.detectors`` whose name
is the prefix, and whose value is a ``Family`` or a factory(folder, device, dtype). Nothing is imported before it is
asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from refiner.detectors.base import read_config
from refiner.detectors.family import Family
from refiner.detectors.ids import ModelId, check_options, parse_id, split_options
from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import MICRO_WEIGHTS, micro_parts, read_card, resolve

if TYPE_CHECKING:
    import torch

    from refiner.protocols import Detector

ENTRY_POINTS = "refiner.detectors"

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "joint": "refiner.detectors.joint:FAMILY",
        "legion": "refiner.detectors.legion:FAMILY",
        "parts": "refiner.detectors.parts:FAMILY",
        "probe": "refiner.detectors.probe:FAMILY",
        "vlm": "refiner.detectors.vlm:FAMILY",
    }
)
"""Prefix -> where the family is."""


def families() -> dict[str, str]:
    """The table, with what other packages add to it; ours cannot be replaced."""
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)} | dict(FAMILIES)


def load_detector(
    detector: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    grounder: str | Path | None = None,
) -> Detector:
    """Load a detector by its id.

    Args:
        detector: ``micro`` (which is ``micro:legion``), ``micro:probe``, ``micro:vlm`` (bundled), ``<family>:<folder
            or hub id>``, or a folder or hub id that tells its family. Any vision-language model:
            ``vlm:<folder or hub id>`` to run it here (``vlm`` alone: Qwen3-VL-8B-Instruct), or
            ``vlm:<model>@<base url>`` to ask an OpenAI-compatible endpoint, such as
            ``vlm:my-model@http://127.0.0.1:8000/v1``. Options of ``vlm`` stand behind it:
            ``,grounder=<id>``, and for an endpoint ``,cache=<folder>``, which keeps its answers. Parts that are
            repainted as a matter of course: ``parts:hand,face@<folder or hub id of an open-vocabulary detector>``.
            Several as one, which see more than each of them: ``joint:<id>+<id>``, such as ``joint:micro+micro:probe``.
        device: None takes CUDA where there is one.
        dtype: None takes float32 on a CPU, elsewhere the checkpoint's own.
        grounder: of a vision-language model or of parts, which give boxes alone: id for ``load_grounder``, such as
            ``sam:<path>``, instead of that in its id; None without one there: ``grabcut``, or ``box`` for parts, which
            need no weights.

    Raises:
        ModelNotFoundError: no such detector; the message names those that are known.
        WeightsError: its weights are damaged or of another kind.
        ConfigError: a grounder for a detector that draws its own masks, or options that it does not have.
    """
    family, model = _find(str(detector))
    if grounder is not None:
        _check_grounder(family, str(detector))
        model = replace(model, options={**model.options, "grounder": str(grounder)})
    if family.needs_folder:
        model = replace(model, model=str(resolve(model.model, "detector")))
    return family.load(model, device, dtype)


def with_grounder(detector: str, grounder: str | Path) -> str:
    """The id of a detector with a grounder.

    Raises:
        ConfigError: it draws its own masks.
        ModelNotFoundError: no such detector.
    """
    _check_grounder(_find(detector)[0], detector)
    return f"{detector},grounder={grounder}"


def bundled_detectors() -> list[str]:
    """The ids of the detectors that come with the package."""
    return [part for part in micro_parts() if read_card(MICRO_WEIGHTS / part.removeprefix("micro:")).family]


def _check_grounder(family: Family, detector: str) -> None:
    if "grounder" not in family.options:
        raise ConfigError(f"{detector!r} draws its own masks and takes no grounder: leave the grounder out.")


def _find(detector: str) -> tuple[Family, ModelId]:
    """The family of an id, and what the id says besides."""
    table = families()
    prefix, colon, rest = detector.partition(":")
    if prefix in table and (colon or not Path(detector).is_dir()):
        family = _load_family(prefix, table)
        if colon or not family.needs_folder:
            return family, _parsed(family, rest)
    name, options = (detector, {}) if Path(detector).is_dir() else split_options(detector)
    try:
        folder = resolve(name, "detector")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} {_known(table)}") from error
    family = _family_of(folder, name, table)
    check_options(options, family.options)
    bundled = folder.is_relative_to(MICRO_WEIGHTS)
    return family, ModelId(model=name if bundled else str(folder), options=options)


def _parsed(family: Family, rest: str) -> ModelId:
    """What stands behind a family's prefix."""
    if not family.options and not family.endpoint:
        return ModelId(model=rest)
    found = parse_id(rest, family.options)
    if found.base_url is not None and not family.endpoint:
        raise ConfigError(f"A detector of the family {family.name} runs here, not at {found.base_url}: name a model.")
    return found


def _family_of(folder: Path, name: str, table: Mapping[str, str]) -> Family:
    """The family of a folder, by its card or by what the families recognise."""
    card = read_card(folder) if (folder / "card.json").exists() else None
    if card is not None and card.family:
        if card.family not in table:
            raise ModelNotFoundError(f"{name!r} is of the unknown family {card.family!r}. {_known(table)}")
        return _load_family(card.family, table)
    try:
        config = read_config(folder)
    except WeightsError:
        config = {}
    found = [family for each in table if (family := _load_family(each, table)).recognise(config, folder)]
    if len(found) > 1:
        prefixes = " or ".join(f"{family.name}:" for family in found)
        raise ConfigError(f"{name!r} may belong to several families of detectors: put {prefixes} before it.")
    if not found:
        raise ModelNotFoundError(f"Expected a detector, got {name!r}, whose config names none. {_known(table)}")
    return found[0]


def _load_family(name: str, table: Mapping[str, str]) -> Family:
    module, _, attribute = table[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The plug-in {table[name]!r} for detectors of the family {name!r} cannot be imported ({error}): install "
            "what it needs, or uninstall it."
        ) from error
    if isinstance(found, Family):
        return found
    return Family(name=name, load=lambda model, device, dtype: found(Path(model.model), device, dtype))


def _known(table: Mapping[str, str]) -> str:
    ids = [usage for name in sorted(table) for usage in _load_family(name, table).ids]
    return f"Known detectors: {', '.join(['micro', *bundled_detectors(), *ids])}."
