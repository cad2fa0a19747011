"""From the id of a detector to the detector.

A frozen table of families; nothing is imported before it is asked for. Other packages add families by an entry point
of group ``refiner.detectors`` whose name is the family and whose value is a factory like those in ``FAMILIES``.
The families ``vlm`` and ``parts`` alone need no folder: a model may stand behind an endpoint,
``vlm:<model>@<base url>``, and parts have names, ``parts:hand,face@<model>``. ``joint`` joins ids of others.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from refiner.errors import ConfigError, ModelNotFoundError
from refiner.hub import micro_parts, resolve

if TYPE_CHECKING:
    import torch

    from refiner.protocols import Detector

    Factory = Callable[[Path, str | torch.device | None, torch.dtype | None], Detector]

ENTRY_POINTS = "refiner.detectors"
JOINT = "joint"
"""Family of ids that join others."""


def _legion(folder: Path, device: str | torch.device | None, dtype: torch.dtype | None) -> Detector:
    from refiner.detectors.legion import LegionDetector

    return LegionDetector.from_pretrained(folder, device=device, dtype=dtype)


def _probe(folder: Path, device: str | torch.device | None, _dtype: torch.dtype | None) -> Detector:
    from refiner.detectors.probe import ProbeDetector

    return ProbeDetector.from_pretrained(folder, device=device)


def _vlm(folder: Path, device: str | torch.device | None, dtype: torch.dtype | None) -> Detector:
    from refiner.detectors.vlm.detector import load_vlm

    return load_vlm(folder, device=device, dtype=dtype)


FAMILIES: Mapping[str, Factory] = MappingProxyType({"legion": _legion, "probe": _probe, "vlm": _vlm})
"""Family -> factory(folder, device, dtype)."""

_MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {"refiner_legion": "legion", "refiner_probe": "probe", "qwen2_5_vl": "vlm", "qwen3_vl": "vlm"}
)
"""``model_type`` in a folder's ``config.json`` -> family."""


def families() -> dict[str, Factory]:
    """The table, with what other packages add to it; ours cannot be replaced."""
    added = {entry.name: _lazy(entry.value) for entry in entry_points(group=ENTRY_POINTS)}
    return added | dict(FAMILIES)


def _lazy(target: str) -> Factory:
    module, _, attribute = target.partition(":")

    def build(folder: Path, device: str | torch.device | None, dtype: torch.dtype | None) -> Detector:
        factory: Factory = getattr(importlib.import_module(module), attribute)
        return factory(folder, device, dtype)

    return build


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
            or hub id>``, or a folder or hub id whose ``config.json`` tells its family. Any vision-language model:
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
    table = families()
    text = str(detector)
    family, colon, rest = _split(text)
    if family == "vlm" and (colon or not Path(text).is_dir()):
        return _named_vlm(rest, device, dtype, grounder)
    if family == "parts" and colon:
        return _named_parts(rest, device, dtype, grounder)
    if grounder is not None:
        with_grounder(text, grounder)
    if family == JOINT and colon:
        from refiner.detectors.joint import JointDetector

        return JointDetector([load_detector(each, device, dtype) for each in joined_ids(text)])
    if colon and family in table:
        return table[family](resolve(rest, "detector"), device, dtype)
    try:
        folder = resolve(detector, "detector")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} {_known(table)}") from error
    named = _family_of(folder)
    if named not in table:
        raise ModelNotFoundError(f"Expected a detector, got {text!r}, whose config names none. {_known(table)}")
    return table[named](folder, device, dtype)


def joined_ids(detector: str | Path) -> list[str]:
    """The ids that ``joint:`` joins, or the one id.

    Raises:
        ConfigError: there are fewer than two behind ``joint:``, or one is a joint one itself.
    """
    family, colon, rest = str(detector).partition(":")
    if family != JOINT or not colon:
        return [str(detector)]
    ids = rest.split("+")
    if len(ids) < 2 or not all(ids) or any(each.startswith(f"{JOINT}:") for each in ids):
        raise ConfigError(
            f"Expected ids of two detectors or more with + between, such as joint:micro+micro:probe, got {detector!r}."
        )
    return ids


def with_grounder(detector: str, grounder: str | Path) -> str:
    """The id of a vision-language model, or of parts, with a grounder.

    Raises:
        ConfigError: the id is that of a detector that draws its own masks.
    """
    if _split(detector)[0] not in ("vlm", "parts"):
        raise ConfigError(
            f"Expected a grounder with vlm:<model> or parts:<names> alone, got one with {detector!r}, which draws its "
            "own masks: leave the grounder out."
        )
    return f"{detector},grounder={grounder}"


def _split(detector: str) -> tuple[str, str, str]:
    """Family, colon and what stands behind it; the bundled vision-language model is one as any other."""
    return ("vlm", ":", detector) if detector.partition(",")[0] == "micro:vlm" else detector.partition(":")


def _named_vlm(
    rest: str, device: str | torch.device | None, dtype: torch.dtype | None, grounder: str | Path | None
) -> Detector:
    """What stands behind ``vlm:``."""
    from refiner.detectors.chat.names import parse_name
    from refiner.detectors.vlm.detector import DEFAULT_GROUNDER, DEFAULT_MODEL, load_vlm

    name = parse_name(rest, ("grounder", "cache"))
    return load_vlm(
        name.model or DEFAULT_MODEL,
        base_url=name.base_url,
        grounder=grounder or name.options.get("grounder", DEFAULT_GROUNDER),
        cache=name.options.get("cache"),
        device=device,
        dtype=dtype,
    )


def _named_parts(
    rest: str, device: str | torch.device | None, dtype: torch.dtype | None, grounder: str | Path | None
) -> Detector:
    """What stands behind ``parts:``."""
    from refiner.detectors.chat.names import parse_name
    from refiner.detectors.parts import DEFAULT_GROUNDER, load_parts

    name = parse_name(rest, ("grounder",))
    chosen = grounder or name.options.get("grounder", DEFAULT_GROUNDER)
    return load_parts(name.model, grounder=chosen, device=device, dtype=dtype)


def _family_of(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "mm_vision_tower" in config and "out_dim" in config:
            return "legion"
        return _MODEL_TYPES.get(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _known(table: Mapping[str, Factory]) -> str:
    bundled = [part for part in micro_parts() if part.removeprefix("micro:") in table]
    names = ["micro", *bundled, *(f"{family}:<folder or hub id>" for family in sorted(table)), "vlm:<model>@<base url>"]
    names += ["parts:<names>@<model>", f"{JOINT}:<id>+<id>"]
    return f"Known detectors: {', '.join(names)}."
