"""Load the parts of a RefinedPipeline by their ids, and read what was saved with one."""

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
from refiner.protocols import Judge, Reviser

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Where = str | Path
Judges = Judge | Where | Sequence[Judge | Where] | None


def fitting_reviser(reviser: str, pipe: DiffusionPipeline, call: Mapping[str, Any] = MappingProxyType({})) -> Reviser:
    """Load a reviser whose prompts fit the pipeline's text encoders; ``call`` may hold ``max_sequence_length``."""
    count, limit = count_tokens(pipe, call)
    template = TemplateReviser(limit=limit, count=count, free_text=reads_free_text(pipe))
    return load_reviser(reviser, template, device=pipe._execution_device)


def pipeline_like(model: Where, like: DiffusionPipeline) -> DiffusionPipeline:
    """Load a further pipeline with the dtype and device of ``like``."""
    from diffusers import DiffusionPipeline

    folder = resolve(model, "generator")
    verify(folder)
    return DiffusionPipeline.from_pretrained(folder, dtype=like.dtype).to(like.device)


def judges_on(judge: Judges, device: torch.device) -> Judge | None:
    """Load the judges that are given by id onto a device; several are joined, and None stays None."""
    if isinstance(judge, str | Path):
        return load_judge(judge, device)
    if isinstance(judge, Sequence):
        return JointJudge([load_judge(one, device) if isinstance(one, str | Path) else one for one in judge])
    return judge


def ids_of(parts: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Return the ids, by name, of the parts that were passed by id; a sequence must have only ids."""
    found: dict[str, str | list[str]] = {}
    for name, part in parts.items():
        if isinstance(part, str | Path) and part:
            found[name] = str(part)
        elif isinstance(part, Sequence) and part and all(isinstance(one, str | Path) for one in part):
            found[name] = [str(one) for one in part]
    return found


def saved_arguments(model: Where, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a saved pipeline, and the arguments of RefinedPipeline; see its ``from_pretrained``.

    ``given`` has the user's detector, judge, reviser, config, inpainter and second stage. A None (for the judge:
    "saved") is replaced by the saved value.
    """
    folder = resolve(model, "generator")
    verify(folder)
    saved = SavedSettings.read(folder)
    detector = given["detector"] or inside(folder, trusted("detector", saved.detector))
    if detector is None:
        raise ConfigError(f"{str(model)!r} has no saved detector: pass detector=, such as its id.")
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
    if saved.judge is None:
        return None if (folder / SETTINGS_FILE).exists() else "auto"
    if isinstance(saved.judge, str):
        return inside(folder, trusted("judge", saved.judge))
    return [inside(folder, trusted("judge", one)) or one for one in saved.judge]


def trusted(part: str, saved: str | None) -> str | None:
    """Return a saved id, or raise ConfigError if it would send images, prompts and API key to a machine named there."""
    if saved is not None and is_elsewhere(saved):
        raise ConfigError(
            f"The {part} saved with this pipeline sends data to another machine: pass {part}={saved!r} if you trust "
            f"it, or pass another {part}."
        )
    return saved


def inside(folder: Path, place: str | None) -> Where | None:
    """Turn a relative place ("./...") into a path inside the folder; an id is returned unchanged."""
    return folder / place if place and place.startswith("./") else place
