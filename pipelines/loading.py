"""From ids to the parts of a RefinedPipeline, on its device, and what a saved one may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from refiner.detectors.ids import is_elsewhere
from refiner.errors import ConfigError
from refiner.hub import resolve, verify
from refiner.pipelines.judges import JointJudge, load_judge
from refiner.pipelines.painting.families import count_tokens, reads_free_text
from refiner.pipelines.revisers.chat import load_reviser
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.pipelines.saving.settings import SETTINGS_FILE, SavedSettings
from refiner.protocols import Detector, Judge, Reviser

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Where = str | Path
Judges = Judge | Where | Sequence[Judge | Where] | None


def fitting_reviser(reviser: str, pipe: DiffusionPipeline, call: Mapping[str, Any] = MappingProxyType({})) -> Reviser:
    """A reviser whose prompts fit the pipeline's text encoders, as its call has them read."""
    count, limit = count_tokens(pipe, call)
    template = TemplateReviser(limit=limit, count=count, free_text=reads_free_text(pipe))
    return load_reviser(reviser, template, device=pipe.device)


def detector_on(detector: Where, device: torch.device) -> Detector:
    """A detector on a device."""
    from refiner.detectors import load_detector

    return load_detector(detector, device=device)


def pipeline_like(model: Where, like: DiffusionPipeline) -> DiffusionPipeline:
    """A further pipeline, in the dtype and on the device of the first."""
    from diffusers import DiffusionPipeline

    folder = resolve(model, "generator")
    verify(folder)
    return DiffusionPipeline.from_pretrained(folder, dtype=like.dtype).to(like.device)


def judges_on(judge: Judges, device: torch.device) -> Judge | None:
    """One judge, several as one, or none; those that are named are loaded onto a device."""
    if isinstance(judge, str | Path):
        return load_judge(judge, device)
    if isinstance(judge, Sequence):
        return JointJudge([load_judge(one, device) if isinstance(one, str | Path) else one for one in judge])
    return judge


def id_of(part: object) -> str | list[str] | None:
    """What a part was loaded by; None where it was handed over loaded."""
    if isinstance(part, str | Path):
        return str(part)
    if isinstance(part, Sequence) and part and all(isinstance(one, str | Path) for one in part):
        return [str(one) for one in part]
    return None


def saved_arguments(model: Where, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Folder of a saved pipeline, and the arguments that RefinedPipeline takes with it.

    Args:
        model: folder or hub id.
        given: detector, judge ("saved": the saved one), reviser, config, inpainter and second stage by the user; what
            is None is taken as it was saved.

    Raises:
        ConfigError: no detector is given or saved, or one that was saved would send pictures to another machine.
        ModelNotFoundError, WeightsError: there is no such model, or it is damaged.
    """
    folder = resolve(model, "generator")
    verify(folder)
    saved = SavedSettings.read(folder)
    detector = given["detector"] or inside(folder, trusted("detector", saved.detector))
    if detector is None:
        raise ConfigError(f"Expected a detector for {str(model)!r}, got none: pass detector=, such as an id.")
    return folder, {
        "detector": detector,
        "judge": _saved_judge(folder, saved) if given["judge"] == "saved" else given["judge"],
        "reviser": given["reviser"] or trusted("reviser", saved.reviser),
        "config": given["config"] or saved.config,
        "call": saved.call,
        "inpainter": given["inpainter"] or inside(folder, saved.inpainter),
        "inpaint_call": saved.inpaint_call,
        "second_stage": given["second_stage"] or inside(folder, saved.second_stage),
        "native": saved.native,
    }


def _saved_judge(folder: Path, saved: SavedSettings) -> Judges:
    """What a folder's settings name; "auto" where it has no settings."""
    if saved.judge is None:
        return None if (folder / SETTINGS_FILE).exists() else "auto"
    if isinstance(saved.judge, str):
        return inside(folder, trusted("judge", saved.judge))
    return [inside(folder, trusted("judge", one)) or one for one in saved.judge]


def trusted(part: str, saved: str | None) -> str | None:
    """What was saved, unless it would send the user's pictures, prompts and key to a machine that a file names."""
    if saved is not None and is_elsewhere(saved):
        raise ConfigError(
            f"Expected {part}=, because the one saved with this pipeline asks another machine, got none: pass "
            f"{part}={saved!r} where you trust it."
        )
    return saved


def inside(folder: Path, place: str | None) -> Where | None:
    """An id as it is, and a place inside the folder as a path."""
    return folder / place if place and place.startswith("./") else place
