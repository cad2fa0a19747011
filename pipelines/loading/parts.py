"""Load a pipeline and its parts by their ids, with what was saved beside the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from refiner.detectors.ids import is_elsewhere
from refiner.detectors.registry import detector_needs, load_detector
from refiner.errors import ConfigError, WeightsError
from refiner.hub import check_reachable, locate
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.hosted import HostedEditor, is_hosted, load_editor
from refiner.pipelines.judges import JointJudge, judge_needs, load_judge
from refiner.pipelines.loading.checkpoints import CheckpointSource, is_checkpoint
from refiner.pipelines.loading.options import ACCESS, PRETRAINED, merged_revision, read_options
from refiner.pipelines.loading.sources import FolderSource, HubSource, Source, Where, variants_of
from refiner.pipelines.painting.families import check_inpaints, count_tokens, reads_free_text
from refiner.pipelines.revisers.chat import load_reviser, reviser_needs
from refiner.pipelines.revisers.plain import PlainReviser, ReviserLike
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.pipelines.saving.settings import PARTS, SETTINGS_FILE
from refiner.plain import JudgeLike, as_judge
from refiner.protocols import Judge, Reviser
from refiner.repository import Repository

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Judges = JudgeLike | Where | Sequence[JudgeLike | Where] | None

_NONE: Mapping[str, Any] = MappingProxyType({})
_PIPELINES = ("inpainter", "second_stage", "editor")
_SETTINGS = ("config", "call", "inpaint_call", "edit_call", "native")
"""Arguments of RefinedPipeline that are saved and are no parts."""


def fitting_reviser(reviser: ReviserLike | str, pipe: DiffusionPipeline, call: Mapping[str, Any] = _NONE) -> Reviser:
    """Load a reviser whose prompts fit the pipeline's text encoders; ``call`` may hold ``max_sequence_length``.

    A complete reviser is returned unchanged. A function gets a template that fits the text encoders.
    """
    if isinstance(reviser, Reviser):
        return reviser
    count, limit = count_tokens(pipe, call)
    template = TemplateReviser(limit=limit, count=count, free_text=reads_free_text(pipe))
    if isinstance(reviser, str):
        return load_reviser(reviser, template, device=pipe._execution_device)
    return PlainReviser(reviser, template)


def find_source(model: Where, options: Mapping[str, Any] = _NONE) -> Source:
    """Find where a pipeline comes from; nothing is downloaded.

    Args:
        model: an existing folder, ``micro``, ``micro:<part>``, a hub id with an optional ``@revision``, a checkpoint
            file, or the URL of one on the hub.
        options: arguments of diffusers' ``from_pretrained``, or for a checkpoint of ``from_single_file``.

    Raises:
        ModelNotFoundError: there is no such folder or file, and it cannot be a hub id.
        ConfigError: an option is wrong; see ``read_options``.
    """
    if is_checkpoint(model):
        return CheckpointSource(str(model), options)
    if "config" in options:
        raise ConfigError(
            f"Expected config= as a RefineConfig for {str(model)!r}, got {str(options['config'])!r}: pass one, or "
            "name a checkpoint file, which may take its configuration from a path."
        )
    read = read_options(options, PRETRAINED)
    place = locate(model, "generator")
    if isinstance(place, Path):
        return FolderSource(str(model), place, read)
    revision = merged_revision(str(model), place.revision, read.pop("revision", None))
    access = {name: read[name] for name in ACCESS if name in read}
    return HubSource(str(model), Repository(name=place.name, revision=revision, access=access), read)


def pipeline_like(model: Where, like: DiffusionPipeline, options: Mapping[str, Any] = _NONE) -> DiffusionPipeline:
    """Load a further pipeline with the dtype and device of ``like``; ``options`` are those of ``find_source``."""
    source = find_source(model, {"dtype": like.dtype, **options})
    source.check()
    return source.load().to(like.device)


def inpainter_like(
    model: Where, like: DiffusionPipeline, options: Mapping[str, Any] = _NONE
) -> DiffusionPipeline | HostedEditor:
    """Load what inpaints by its id: a hosted edit model, or a pipeline as ``pipeline_like`` does."""
    return load_editor(str(model)) if is_hosted(model) else pipeline_like(model, like, options)


def judges_on(judge: Judges, device: torch.device) -> Judge | None:
    """Load the judges that are given by id onto a device; several are joined, and None stays None."""
    if isinstance(judge, str | Path):
        return load_judge(judge, device)
    if isinstance(judge, Sequence):
        return JointJudge([load_judge(one, device) if isinstance(one, str | Path) else one for one in judge])
    return None if judge is None else as_judge(judge)


def ids_of(parts: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Return the ids, by name, of the parts that were passed by id; a sequence must have only ids."""
    found: dict[str, str | list[str]] = {}
    for name, part in parts.items():
        if isinstance(part, str | Path) and part:
            found[name] = str(part)
        elif isinstance(part, Sequence) and part and all(isinstance(one, str | Path) for one in part):
            found[name] = [str(one) for one in part]
    return found


def check_parts(parts: Mapping[str, Any], options: Mapping[str, Any] = _NONE) -> None:
    """Check the parts of a RefinedPipeline that are given by ids, before anything is downloaded.

    Args:
        parts: by the names in ``PARTS``.
        options: how the hub is reached by ``inpainter``, ``second_stage`` and ``editor``; see ``find_source``.

    Raises:
        UserError: an id is wrong, or the hub has no such model.
    """
    check_reachable(part_needs(parts, options))


def part_needs(parts: Mapping[str, Any], options: Mapping[str, Any] = _NONE) -> list[Path | Repository]:
    """List the folders and hub models that the parts are loaded from; the hub is not asked, and no torch imported.

    Args:
        parts, options: as for ``check_parts``.

    Raises:
        UserError: an id is wrong.
    """
    needs: list[Path | Repository] = []
    for name, part in parts.items():
        for one in _ids(part):
            if name == "detector":
                needs += detector_needs(one)
            elif name == "judge" and one != "auto":
                needs += judge_needs(one)
            elif name == "reviser":
                needs += reviser_needs(str(one))
            elif name in ("inpainter", "editor") and is_hosted(one):
                load_editor(str(one)).close()
            elif name in _PIPELINES:
                needs += find_source(one, options).needs
    return needs


def _ids(part: Any) -> Iterator[Where]:
    for one in part if isinstance(part, list | tuple) else [part]:
        if isinstance(one, str | Path):
            yield one


class Loaded(NamedTuple):
    """A loaded pipeline, and the other arguments of RefinedPipeline."""

    pipe: DiffusionPipeline
    arguments: dict[str, Any]
    ids: dict[str, str | list[str]]
    """Ids of the pipeline and of further pipelines, by name; ``arguments`` holds these pipelines, not their ids."""


def load_parts(model: Where, given: Mapping[str, Any], options: Mapping[str, Any]) -> Loaded:
    """Load a pipeline and what was saved with it; see ``RefinedPipeline.from_pretrained``.

    What is wrong is said before the weights are downloaded, as far as it is known by then.

    Args:
        model: see ``find_source``.
        given: the user's arguments of RefinedPipeline; those that are missing are the saved ones.
        options: the user's options; see ``find_source``.
    """
    _check_settings(given)
    source = find_source(model, options)
    access = {name: source.options[name] for name in (*ACCESS, "dtype") if name in source.options}
    check_parts({name: given[name] for name in PARTS if name in given}, access)
    saved = source.settings()
    kept = {name: part for name in PARTS if name not in given and (part := getattr(saved, name, None)) is not None}
    _check_saved(source, kept, access)
    if "detector" not in {*given, *kept}:
        raise ConfigError(f"{str(model)!r} has no saved detector: pass detector=, such as its id.")
    found = source.check()
    if found is not None and "inpainter" not in {*given, *kept}:
        check_inpaints(found)
    beside = {name: part for name, part in kept.items() if any(map(_is_beside, _ids(part)))}
    places = {name: _placed(source, part) for name, part in beside.items()}
    pipe = source.load()
    usual = {} if saved is None else {name: getattr(saved, name) for name in _SETTINGS}
    arguments = {"judge": "auto" if saved is None else None, **usual, **kept, **given}
    ids = ids_of({name: arguments.get(name) for name in _PIPELINES if name not in beside})
    arguments |= _loaded(places, pipe, source, access)
    for name in ids:
        load = pipeline_like if name == "second_stage" else inpainter_like
        arguments[name] = load(arguments[name], pipe, access)
    return Loaded(pipe, arguments, ids | {"model": source.id})


def _check_settings(given: Mapping[str, Any]) -> None:
    kinds = {"config": RefineConfig, "call": Mapping, "inpaint_call": Mapping, "edit_call": Mapping}
    for name, kind in kinds.items():
        if name in given and not isinstance(given[name], kind):
            raise ConfigError(f"Expected {name}= as a {kind.__name__}, got {given[name]!r:.80}: pass such a value.")
    native = given.get("native", 1)
    if not isinstance(native, int) or native < 1:
        raise ConfigError(f"Expected native= in pixels, at least 1, got {native!r}: pass a side, or leave it out.")


def _check_saved(source: Source, parts: Mapping[str, Any], access: Mapping[str, Any]) -> None:
    """Check the saved parts as ``check_parts`` does; they must not send data to other machines."""
    for name in ("detector", "judge", "reviser", "inpainter", "editor"):
        for one in _ids(parts.get(name)):
            trusted(name, str(one))
    for place in (one for part in parts.values() for one in _ids(part) if _is_beside(one)):
        if ".." in PurePosixPath(str(place)).parts or not source.holds(str(place)):
            raise WeightsError(
                f"{source.model!r} holds no folder {place!r}, which its {SETTINGS_FILE} names: save the pipeline again."
            )
    check_parts({name: [one for one in _ids(part) if not _is_beside(one)] for name, part in parts.items()}, access)


def trusted(part: str, saved: str | None) -> str | None:
    """Return a saved id, or raise ConfigError if it would send images, prompts and API key to a machine named there."""
    if saved is not None and is_elsewhere(saved):
        raise ConfigError(
            f"The {part} saved with this pipeline sends data to another machine: pass {part}={saved!r} if you trust "
            f"it, or pass another {part}."
        )
    return saved


def _is_beside(place: Where) -> bool:
    """Whether a saved place is a folder inside the pipeline's folder."""
    return str(place).startswith("./")


def _placed(source: Source, part: Any) -> Path | list[Where]:
    """Turn the places inside the pipeline's folder into paths; they are downloaded first."""
    places = [source.inside(str(one)) if _is_beside(one) else one for one in _ids(part)]
    return places if isinstance(part, list) else Path(places[0])


def _loaded(
    places: Mapping[str, Any], pipe: DiffusionPipeline, source: Source, access: Mapping[str, Any]
) -> dict[str, Any]:
    """Load the parts that were saved inside the pipeline's folder. So they have no id, and are saved there again."""
    loaded: dict[str, Any] = {}
    for name, place in places.items():
        if name == "detector":
            loaded[name] = load_detector(place, device=pipe._execution_device)
        elif name == "judge":
            loaded[name] = judges_on(place, pipe._execution_device)
        else:
            variant = source.options.get("variant")
            files = [path.relative_to(place).as_posix() for path in place.glob("*/*")]
            chosen = {"variant": variant} if variant in variants_of(files) else {}
            loaded[name] = pipeline_like(place, pipe, {**access, **chosen})
    return loaded


def inside(folder: Path, place: str | None) -> Where | None:
    """Turn a relative place ("./...") into a path inside the folder; an id is returned unchanged."""
    return folder / place if place and _is_beside(place) else place
