"""Load AlignGemini, and each of its branches alone, by the parts of their ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.detectors.aligngemini.config import BRANCHES, read_pair_config
from refiner.detectors.aligngemini.fusion import Fusion, read_thresholds
from refiner.detectors.aligngemini.notes import Note, read_note
from refiner.detectors.base import first_line, identity, placement
from refiner.detectors.chat.backend import ChatBackend, Loaded
from refiner.detectors.chat.loading import chat_id, chat_needs, chat_part, load_chat
from refiner.detectors.grounded import DEFAULT_GROUNDER, boxes_of, domain_of
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.registry import detector_needs, load_detector, with_grounder
from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import checksum, locate, resolve, verify
from refiner.repository import Repository

if TYPE_CHECKING:
    import torch

    from refiner.detectors.aligngemini.expert import ExpertDetector
    from refiner.detectors.aligngemini.semantic import SemanticDetector
    from refiner.detectors.family import Needs
    from refiner.protocols import Detector

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""The backbone of the paper. It is not tuned for these answers; the weights of the paper are not published."""
_EXPERT_FILES = ("*.json", "*.safetensors", "*.pth")


def load_aligngemini(
    model: str,
    *,
    fusion: str | None = None,
    thresholds: str | None = None,
    grounder: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Detector:
    """Load an AlignGemini by the part of its id after ``aligngemini:``.

    Args:
        model: a folder or hub id whose ``config.json`` names the sub-folders of its branches, or the ids of two
            detectors with a ``+`` between them, the semantic branch first.
        fusion: one of ``FUSIONS``; None: as the folder says, else ``or``.
        thresholds: of the semantic and the pixel branch, such as ``0.6/0.4``, for the fusion ``thresholds``; None: as
            the folder says.
        grounder: id for ``load_grounder``, for the semantic branch; None: its own.
        device, dtype: of both branches, as for ``load_detector``.

    Returns:
        An ``AlignGeminiDetector``; if the folder holds one branch alone, the detector of that branch.

    Raises:
        RefinerError: the errors of ``load_detector`` for a branch, of ``read_pair_config`` and of ``Fusion``.
    """
    from refiner.detectors.aligngemini.detector import AlignGeminiDetector

    ids = branch_ids(model)
    if ids is None:
        folder = resolve(model, "detector")
        config = read_pair_config(folder)
        verify(folder)
        rule = fused(config.fusion, fusion, thresholds)
        named: dict[str, Any] = dict(identity(folder, "aligngemini")._asdict())
        paths = {branch: str(folder / name) for branch, name in config.branches.items()}
    else:
        rule, named, paths = fused(Fusion(), fusion, thresholds), {}, dict(zip(BRANCHES, ids, strict=True))
    if grounder is not None and "semantic" in paths:
        paths["semantic"] = with_grounder(paths["semantic"], grounder)
    parts = {branch: load_detector(each, device, dtype) for branch, each in paths.items()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return AlignGeminiDetector(parts["semantic"], parts["pixel"], fusion=rule, **named)


def branch_ids(model: str) -> tuple[str, str] | None:
    """The ids of two branches with a ``+`` between them; None if the model is one folder or hub id.

    Raises:
        ConfigError: there are more than two ids, or one of them is empty.
    """
    if "+" not in model or Path(model).expanduser().is_dir():
        return None
    ids = model.split("+")
    if len(ids) != 2 or not all(ids):
        raise ConfigError(
            f"Expected the ids of a semantic and a pixel branch, got {model!r}: put one + between them, such as "
            "aligngemini:micro:fakexplain+dda:FILE."
        )
    return ids[0], ids[1]


def fused(own: Fusion, name: str | None, thresholds: str | None) -> Fusion:
    """The rule that an id asks for, else that of the folder."""
    pair = own.thresholds if thresholds is None else read_thresholds(thresholds)
    return Fusion(own.name if name is None else name, pair)


def aligngemini_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_aligngemini`` reads; raises its errors that are known without a
    download."""
    if "thresholds" in model.options:
        read_thresholds(model.options["thresholds"])
    ids = branch_ids(model.model)
    if ids is not None:
        fused(Fusion(), model.options.get("fusion"), model.options.get("thresholds"))
        return [need for each in ids for need in detector_needs(each)]
    place = locate(model.model, "detector")
    if isinstance(place, Repository):
        return [place]
    names = read_pair_config(place).branches.values()
    return [place, *(need for name in names for need in detector_needs(place / name))]


def load_semantic(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: str | Path | None,
) -> SemanticDetector:
    """Load a ``SemanticDetector``.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model; ""
            selects ``DEFAULT_MODEL``. The folder may be an adapter of peft.
        base_url: address of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs on
            this machine.
        grounder: id for ``load_grounder``.
        device, dtype: of the grounder and of a model on this machine, as for ``load_detector``.
        options: of the chat model, as in an id (``refiner.detectors.chat.options``). Without ``boxes``, boxes are as
            the note in the model's folder says, else as its type or name does (``boxes_of``).

    Raises:
        RefinerError: the errors of ``load_chat``, ``read_note`` and ``load_grounder``.
    """
    from refiner.detectors.aligngemini.semantic import SemanticDetector

    chat = load_chat(chat_id(str(model) or DEFAULT_MODEL, base_url, options), device=device, dtype=dtype)
    note, told = _note_of(chat), options.get("boxes")
    return SemanticDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        boxes=note.boxes if told is None else BoxFormat.parse(str(told), note.boxes),
        domain=domain_of(chat),
        max_side=note.max_side,
    )


def semantic_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_semantic`` reads; raises its errors that are known without a
    download."""
    return [
        *chat_needs(chat_part(model, DEFAULT_MODEL)),
        *grounder_needs(model.options.get("grounder", DEFAULT_GROUNDER)),
    ]


def _note_of(chat: ChatBackend) -> Note:
    """The first note in the folders of a model, else what is usual for its type; a server may serve a folder's path."""
    folders = chat.folders if isinstance(chat, Loaded) else (Path(chat.name),)
    return next((note for folder in folders if (note := read_note(folder))), Note(boxes_of(chat)))


def load_expert(
    model: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ExpertDetector:
    """Load an ``ExpertDetector`` by the part of its id after ``dda:``.

    Args:
        model: a folder of ``ExpertDetector.save_pretrained``; or a published checkpoint (``*.pth``), or a folder or hub
            id that holds one.
        device, dtype: as for ``load_detector``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the weights are damaged or of another network.
    """
    from refiner.detectors.aligngemini.conversion import read_published
    from refiner.detectors.aligngemini.expert import ExpertDetector, built

    place, kind = placement(device, dtype)
    file = _expert_file(model)
    if file.is_dir():
        return ExpertDetector.from_pretrained(file, device=place, dtype=kind)
    try:
        network = built(*read_published(file))
    except RuntimeError as error:
        raise WeightsError(
            f"{str(file)!r} does not hold the weights of DDA ({first_line(error):.200}): download it again."
        ) from error
    return ExpertDetector(network.to(place, kind), name=f"dda:{file.stem}@{checksum(file)[:12]}")


def expert_needs(model: ModelId) -> Needs:
    """List the file, folder or hub model that ``load_expert`` reads; raises its errors that are known without a
    download."""
    found = _located(model.model)
    return [found if isinstance(found, Repository) else _expert_file(model.model)]


def _located(model: str) -> Path | Repository:
    path = Path(model).expanduser()
    return path if model.strip() and path.is_file() else locate(model, "detector")


def _expert_file(model: str) -> Path:
    """The only published checkpoint in a folder; without any, the folder itself if it has a config."""
    found = _located(model)
    place = found.folder(_EXPERT_FILES) if isinstance(found, Repository) else found
    if place.is_file():
        return place
    files = sorted(place.rglob("*.pth"))
    if not files and (place / "config.json").is_file():
        return place
    if len(files) != 1:
        names = ", ".join(path.relative_to(place).as_posix() for path in files[:5]) or "none"
        raise ModelNotFoundError(f"Expected one checkpoint (*.pth) in {str(place)!r}, got {names}: name the file.")
    return files[0]
