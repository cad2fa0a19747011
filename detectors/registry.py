"""Load a detector by its id.

The family of a detector is the prefix of its id; else the family in the folder's ``card.json``; else the only family
whose ``recognise`` returns True for the folder. Other packages add families with an entry point of the group
``refiner.detectors``. Its name is the prefix, its value is a ``Family`` or a factory(folder, device, dtype). Families
are imported when they are needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from refiner.calibration import Calibration
from refiner.detectors.base import read_config
from refiner.detectors.calibrated import CalibratedDetector
from refiner.detectors.family import Family
from refiner.detectors.gated import GatedDetector
from refiner.detectors.ids import ModelId, check_options, parse_id, split_options, take_option
from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import MICRO_WEIGHTS, locate, micro_parts, read_card, resolve
from refiner.plain import DetectorLike, as_detector
from refiner.repository import Repository

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs
    from refiner.protocols import Detector

ENTRY_POINTS = "refiner.detectors"

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "aligngemini": "refiner.detectors.aligngemini:FAMILY",
        "anomagent": "refiner.detectors.anomreason:AGENT",
        "anomreason": "refiner.detectors.anomreason:FAMILY",
        "checklist": "refiner.detectors.checklist:FAMILY",
        "cnnspot": "refiner.detectors.baselines:CNNSPOT",
        "dda": "refiner.detectors.aligngemini:EXPERT",
        "drct": "refiner.detectors.baselines:DRCT",
        "fakexplain": "refiner.detectors.fakexplain:FAMILY",
        "joint": "refiner.detectors.joint:FAMILY",
        "legion": "refiner.detectors.legion:FAMILY",
        "npr": "refiner.detectors.baselines:NPR",
        "pal4vst": "refiner.detectors.pal4vst:FAMILY",
        "parts": "refiner.detectors.parts:FAMILY",
        "probe": "refiner.detectors.probe:FAMILY",
        "semantic": "refiner.detectors.aligngemini:SEMANTIC",
        "text": "refiner.detectors.text:FAMILY",
        "univfd": "refiner.detectors.baselines:UNIVFD",
        "vlm": "refiner.detectors.vlm:FAMILY",
        "xaigd": "refiner.detectors.xaigd:FAMILY",
    }
)
"""Prefix -> where the family is defined, as ``module:name``."""


def families() -> dict[str, str]:
    """Return ``FAMILIES`` with the families of other packages; built-in families cannot be replaced."""
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)} | dict(FAMILIES)


def load_detector(
    detector: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    grounder: str | Path | None = None,
    gate: str | Path | DetectorLike | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
) -> Detector:
    """Load a detector by its id.

    Args:
        detector: one of these ids.

            - ``micro`` (the same as ``micro:legion``), ``micro:probe``, ``micro:vlm``, ``micro:fakexplain``,
              ``micro:anomreason``, ``micro:xaigd``, ``micro:aligngemini``: bundled.
            - ``<family>:<folder or hub id>``, or only a folder or hub id whose family can be recognised.
            - ``vlm:<folder or hub id>``: any vision-language model, run on this machine. Just ``vlm`` is
              Qwen3-VL-8B-Instruct.
            - ``vlm:<model>@<base url>``: a model behind an OpenAI-compatible endpoint, such as
              ``vlm:my-model@http://127.0.0.1:8000/v1``. Options of ``vlm`` follow the id: ``,grounder=<id>``, and those
              of chat models (``refiner.detectors.chat.options``), such as ``,cache=<folder>`` and ``,timeout=60``.
            - ``vlm:<model>,profile=<name or TOML file>``: a released critic with a form of its own, such as ``sdg`` or
              ``fakeclue``; ``,instruction=<file>`` is what it is asked (see ``refiner.detectors.vlm.profile``).
            - ``fakexplain:<folder or hub id>`` or ``fakexplain:<model>@<base url>``: a vision-language model that is
              tuned for the answers of FakeXplain, or an adapter for one. It has the options of ``vlm`` and
              ``,dialect=<name>`` (see ``load_fakexplain``).
            - ``anomagent:<folder or hub id>`` or ``anomagent:<model>@<base url>``: any vision-language model, which is
              asked object by object in several steps for what contradicts physics or common sense. It has the options
              of ``vlm``, ``,max_calls=<n>``, ``,max_objects=<n>`` and ``,drafts=<n>`` (see ``load_anomagent``).
            - ``anomreason:<folder or hub id>`` or ``anomreason:<model>@<base url>``: a model that is tuned to list
              such anomalies. It has the options of ``vlm`` and ``,format=<name>``.
            - ``checklist:<folder or hub id>`` or ``checklist:<model>@<base url>``: any vision-language model, which
              checks each statement of the prompt on the image. It has the options of ``vlm`` and ``,parser=<name>``:
              what makes the statements, ``rules``, ``model``, or ``auto`` (see ``load_checklist``).
            - ``parts:hand,face@<folder or hub id of an open-vocabulary detector>``: parts that are always
              regenerated.
            - ``aligngemini:<folder or hub id>``, or ``aligngemini:<id>+<id>`` for any two detectors: a semantic and a
              pixel branch, each with a verdict of its own. Its options are ``,fusion=<name>`` and
              ``,thresholds=<x>/<y>`` (see ``load_aligngemini``).
            - ``semantic:<folder or hub id>`` or ``semantic:<model>@<base url>``: the semantic branch alone, a model
              that is tuned to judge only what an image shows. It has the options of ``vlm``.
            - ``dda:<folder, hub id or file>``: the pixel branch alone, such as ``dda:Junwei-Xi/Dual-Data-Alignment``.
            - ``pal4vst:<file>``: PAL4VST, in TorchScript, which is a program: load only files that you trust.
            - ``xaigd:<folder or hub id>``: a detector of X-AIGD's tasks, a verdict and masks of seven categories. Its
              options are ``,heatmap=<method>`` and ``,regions=all`` (see ``refiner.detectors.xaigd.config``).
            - ``cnnspot:<file>``, ``npr:<file>``, ``drct:<file>``, ``univfd:<file>``: published classifiers of real and
              generated images, which give a verdict and a heat map. Options: ``,view=<name>`` (what they see of the
              image), ``,regions=heatmap``, and for UnivFD ``,backbone=<folder or hub id of CLIP>``.
            - ``text``: reads the lettering of an image, and compares it with the words that the prompt asks for, in
              Latin, Chinese and Japanese letters; needs the extra ``text`` (see ``refiner.detectors.text.detector``).
            - ``joint:<id>+<id>``, such as ``joint:micro+micro:probe``: several detectors together, which find more
              than each of them.

            Each id may end with ``,calibration=<file>``, a file of ``refiner calibrate`` (see
            ``refiner.detectors.calibrated``). At the end of a joint id it is that of all detectors together; a detector
            before the last may have its own.
        device: None selects CUDA or MPS if available, else the CPU.
        dtype: None selects float32 on a CPU, else the checkpoint's dtype.
        grounder: id for ``load_grounder``, such as ``sam:<path>``. Only for detectors that give boxes without masks:
            vision-language models and parts. It replaces the grounder in the detector's id. If neither is given, the
            grounder is ``grabcut``, or ``box`` for parts; both need no weights.
        gate: another detector or its id; only for LEGION. Where its ``fake_probability`` is below 0.5, the regions are
            withheld (see ``refiner.detectors.gated``).
        quantize: "8bit" or "4bit" for a language model in this precision, by bitsandbytes; only for LEGION.
        device_map: where accelerate places the layers, such as "auto" for several GPUs; it replaces ``device``; only
            for LEGION. These three may also stand in the id, such as ``legion:<folder>,quantize=4bit,gate=micro``.

    Raises:
        ModelNotFoundError: there is no such detector; the message lists the known ones.
        WeightsError: the weights are damaged or of another kind.
        ConfigError: a grounder for a detector that draws its own masks, options that the family does not have, or a
            calibration of another detector.
        InputError: the calibration cannot be read.
    """
    plain, calibration = _calibration(detector)
    family, model = _find(plain)
    given = {"grounder": grounder, "gate": gate, "quantize": quantize, "device_map": device_map}
    for name in [name for name, value in given.items() if value is not None]:
        _check_option(family, name, str(detector))
    kept = {name: value for name, value in model.options.items() if given.get(name) is None}
    ids = {name: str(value) for name, value in given.items() if isinstance(value, str | Path)}
    model = replace(model, options={**kept, **ids})
    if family.needs_folder:
        model = replace(model, model=str(resolve(model.model, "detector")))
    found = as_detector(family.load(model, device, dtype))
    if gate is not None and not isinstance(gate, str | Path):
        found = GatedDetector(found, gate)
    return found if calibration is None else CalibratedDetector(found, calibration)


def detector_needs(detector: str | Path, grounder: str | Path | None = None) -> Needs:
    """List the folders and hub models that loading a detector reads; nothing is downloaded.

    Args:
        detector, grounder: as for ``load_detector``.

    Raises:
        UserError: the errors of ``load_detector`` that are known without a download.
    """
    (text, _), table = _calibration(detector), families()
    found = _by_prefix(text, table)
    if found is None:
        place = _located(text, table)
        if isinstance(place, Repository):  # only its files say of which family it is
            return [place]
        found = _find(text)
    family, model = found
    if grounder is not None:
        _check_option(family, "grounder", str(detector))
        model = replace(model, options={**model.options, "grounder": str(grounder)})
    if family.needs is not None:
        return family.needs(model)
    return [locate(model.model, "detector")] if family.needs_folder else []


def with_grounder(detector: str, grounder: str | Path) -> str:
    """Add a grounder to the id of a detector.

    Raises:
        ConfigError: the detector draws its own masks.
        ModelNotFoundError: there is no such detector.
    """
    _check_option(_find(_calibration(detector)[0])[0], "grounder", detector)
    return f"{detector},grounder={grounder}"


def bundled_detectors() -> list[str]:
    """List the ids of the bundled detectors."""
    return [part for part in micro_parts() if read_card(MICRO_WEIGHTS / part.removeprefix("micro:")).family]


def _calibration(detector: str | Path) -> tuple[str, Calibration | None]:
    """Split an id into the id without its calibration, and the calibration; None if it has none."""
    text, table = str(detector), families()
    prefix = text.partition(":")[0]
    joined = prefix in table and _load_family(prefix, table).holds_ids
    first, plus, last = text.rpartition("+") if joined else ("", "", text)
    plain, file = take_option(last, "calibration")
    if file is None or Path(text).is_dir():
        return text, None
    return f"{first}{plus}{plain}", Calibration.read(file)


def _check_option(family: Family, name: str, detector: str) -> None:
    if name not in family.options:
        reason = "draws its own masks and" if name == "grounder" else f"is of the family {family.name}, which"
        raise ConfigError(f"{detector!r} {reason} takes no {name}: leave the {name} out.")


def _find(detector: str) -> tuple[Family, ModelId]:
    """Return the family of an id, and the other parts of the id."""
    table = families()
    found = _by_prefix(detector, table)
    if found is not None:
        return found
    name, options = _named(detector)
    place = _located(detector, table)
    folder = resolve(name, "detector") if isinstance(place, Repository) else place
    family = _family_of(folder, name, table)
    check_options(options, family.options)
    bundled = folder.is_relative_to(MICRO_WEIGHTS)
    return family, ModelId(model=name if bundled else str(folder), options=options)


def _by_prefix(detector: str, table: Mapping[str, str]) -> tuple[Family, ModelId] | None:
    """Return the family that the prefix of an id names, and the other parts of the id; None without such a prefix."""
    prefix, colon, rest = detector.partition(":")
    if prefix in table and (colon or not Path(detector).is_dir()):
        family = _load_family(prefix, table)
        if colon or not family.needs_folder:
            return family, _parsed(family, rest)
    return None


def _named(detector: str) -> tuple[str, dict[str, str]]:
    """Split an id without a prefix into folder or hub id, and options."""
    return (detector, {}) if Path(detector).is_dir() else split_options(detector)


def _located(detector: str, table: Mapping[str, str]) -> Path | Repository:
    """Find the model of an id without a prefix; nothing is downloaded."""
    try:
        return locate(_named(detector)[0], "detector")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} {_known(table)}") from error


def _parsed(family: Family, rest: str) -> ModelId:
    if not family.options and not family.endpoint:
        return ModelId(model=rest)
    if family.holds_ids:
        first, plus, last = rest.rpartition("+")
        last, options = split_options(last, family.options)
        check_options(options, family.options)
        return ModelId(model=f"{first}{plus}{last}", options=options)
    found = parse_id(rest, family.options)
    if found.base_url is not None and not family.endpoint:
        raise ConfigError(
            f"A detector of the family {family.name} runs here, not at {found.base_url}: give a folder or hub id."
        )
    return found


def _family_of(folder: Path, name: str, table: Mapping[str, str]) -> Family:
    """Find the family of a folder, by its card or by the families' ``recognise``."""
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
        raise ModelNotFoundError(
            f"Expected a detector, got {name!r}, whose config matches no family: put the prefix of its family before "
            f"it. {_known(table)}"
        )
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
    found = [_load_family(name, table) for name in sorted(table)]
    ids = [usage for family in found for usage in family.usage or (f"{family.name}:<folder or hub id>",)]
    return f"Known detectors: {', '.join(['micro', *bundled_detectors(), *ids])}."
